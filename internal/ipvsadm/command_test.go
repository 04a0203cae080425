package ipvsadm

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/sched"
)

// lastCall remembers what Control was asked for.
type lastCall struct {
	*fakeControl
	call string
}

func (c *lastCall) AddService(s ulvs.Service) error {
	c.call = fmt.Sprintf("AddService%+v", s)
	return nil
}

func (c *lastCall) AddDestination(k ulvs.ServiceKey, d ulvs.Destination) error {
	c.call = fmt.Sprintf("AddDestination(%v) %+v", k, d)
	return nil
}

func (c *lastCall) SetTimeouts(t ulvs.Timeouts) error {
	c.call = fmt.Sprintf("SetTimeouts%+v", t)
	return nil
}

func (c *lastCall) Zero(k ulvs.ServiceKey) error { c.call = "Zero " + k.String(); return nil }
func (c *lastCall) ZeroAll() error               { c.call = "ZeroAll"; return nil }

// TestControl checks what reaches Control, where a listing would not show it.
func TestControl(t *testing.T) {
	vip := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}
	vip6 := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: netip.MustParseAddr("fd00::1"), Port: 80}
	add := func(s ulvs.Service) string { return fmt.Sprintf("AddService%+v", s) }
	server := func(k ulvs.ServiceKey, d ulvs.Destination) string {
		return fmt.Sprintf("AddDestination(%v) %+v", k, d)
	}
	rs := netip.MustParseAddr("10.0.0.2")
	for line, want := range map[string]string{
		"-A -t 10.0.0.1:80": add(ulvs.Service{ServiceKey: vip, Scheduler: sched.Default}),
		"-A -t 10.0.0.1:80 -s mh -b mh-port,flag-3 -p": add(ulvs.Service{ServiceKey: vip, Scheduler: "mh",
			SchedFlags: sched.Flag2 | sched.Flag3, Persistence: ulvs.Persistence{Timeout: 6 * time.Minute}}),
		"-A -t 10.0.0.1:80 -p 9 -M 255.255.255.255": add(ulvs.Service{ServiceKey: vip, Scheduler: "wlc",
			Persistence: ulvs.Persistence{Timeout: 9 * time.Second}}),
		"-A -t 10.0.0.1:80 -M 255.255.0.0": add(ulvs.Service{ServiceKey: vip, Scheduler: "wlc"}),
		"-A -u [fd00::1]:80 -o -p 9 -M 60": add(ulvs.Service{ServiceKey: vip6, Scheduler: "wlc", OnePacket: true,
			Persistence: ulvs.Persistence{Timeout: 9 * time.Second, Netmask: netip.MustParseAddr("ffff:ffff:ffff:fff0::")}}),
		"-A -f 7 -6":                    add(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 7, IPv6: true}, Scheduler: "wlc"}),
		"-a -t 10.0.0.1:80 -r 10.0.0.2": server(vip, ulvs.Destination{Addr: rs, Port: 80, Weight: 1}),
		"-a -t 10.0.0.1:80 -r 10.0.0.2:81 -m -w 0 -x 5 -y 4": server(vip,
			ulvs.Destination{Addr: rs, Port: 81, Forward: ulvs.Masquerade, UpperThreshold: 5, LowerThreshold: 4}),
		"-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue --tun-port 9 --tun-remcsum": server(vip, ulvs.Destination{Addr: rs, Port: 80,
			Forward: ulvs.Tunnel, Weight: 1, TunnelType: ulvs.GUE, TunnelPort: 9, TunnelFlags: ulvs.TunnelRemoteChecksum}),
		"-a -f 9 -r 10.0.0.2": server(ulvs.ServiceKey{Mark: 9}, ulvs.Destination{Addr: rs, Weight: 1}),
		"--set 1 0 3":         fmt.Sprintf("SetTimeouts%+v", ulvs.Timeouts{TCP: time.Second, UDP: 3 * time.Second}),
		"-Z":                  "ZeroAll",
		"-Z -t 0.0.0.0":       "ZeroAll",
		"-Z -t [::]:0":        "ZeroAll",
		"-Z -f 3":             "Zero -f 3",
		"-Z -t 10.0.0.1:80":   "Zero -t 10.0.0.1:80",
	} {
		c := &lastCall{fakeControl: newFake()}
		_, stderr, exit := runCommand(c, "", append([]string{"ipvsadm"}, strings.Fields(line)...))
		if c.call != want || exit != 0 {
			t.Errorf("%s\n%s\nwant:\n%s\nexit %d %s", line, c.call, want, exit, stderr)
		}
	}
}

// TestRefusals checks each verb's words for each error, as libipvs's
// ipvs_strerror has them, and what ulvs adds.
func TestRefusals(t *testing.T) {
	lines := map[string]string{
		"add": "-A -t 10.0.0.1:80", "edit": "-E -t 10.0.0.1:80", "delete": "-D -t 10.0.0.1:80", "clear": "-C",
		"add-server": "-a -t 10.0.0.1:80 -r 10.0.0.2", "edit-server": "-e -t 10.0.0.1:80 -r 10.0.0.2",
		"delete-server": "-d -t 10.0.0.1:80 -r 10.0.0.2", "set": "--set 1 2 3", "zero": "-Z", "zero-one": "-Z -t 10.0.0.1:80",
		"list": "-L", "list-one": "-L -t 10.0.0.1:80", "conns": "-Lc", "save": "-S", "timeouts": "-L --timeout", "bare": "",
	}
	const refusedExit, listExit = 255, 1
	invalid := "Invalid operation.  Possibly wrong module version, address not unicast, ...\n"
	for _, c := range []struct {
		verbs string
		err   error
		text  string
		exit  int
	}{
		{"add", ulvs.ErrServiceExists, "Service already exists\n", refusedExit},
		{"add edit", ulvs.ErrNoScheduler, "Scheduler or persistence engine not found\n", refusedExit},
		{"edit delete zero zero-one", ulvs.ErrNoService, "No such service\n", refusedExit},
		{"list list-one save", ulvs.ErrNoService, "No such service\n", listExit},
		{"add-server edit-server delete-server", ulvs.ErrNoService, "Service not defined\n", refusedExit},
		{"add-server", ulvs.ErrDestinationExists, "Destination already exists\n", refusedExit},
		{"edit-server delete-server", ulvs.ErrNoDestination, "No such destination\n", refusedExit},
		{"add edit delete clear add-server edit-server delete-server set zero", ulvs.ErrInvalid, invalid, refusedExit},
		{"add-server edit-server", ulvs.ErrRange, "Numerical result out of range\n", refusedExit},
		{"add set", ulvs.ErrUnsupported, "why: not supported\n", refusedExit},
		{"clear", errors.New("odd"), "why: odd\n", refusedExit},
		{"list conns timeouts", errors.New("odd"), "why: odd\n", listExit},
		{"add edit delete clear add-server edit-server delete-server set zero zero-one list list-one conns save timeouts bare", ulvs.ErrPermission,
			"Can't initialize ipvs: Permission denied (you must be root)\nAre you sure that IP Virtual Server is built in the kernel or as module?\n", 2},
		{"add edit delete clear add-server edit-server delete-server set zero zero-one list list-one conns save timeouts bare", ulvs.ErrUnreachable,
			"Can't initialize ipvs: why: no ulvs daemon\n", 2},
	} {
		for _, v := range strings.Fields(c.verbs) {
			line, ok := lines[v]
			if !ok {
				t.Fatal(v)
			}
			f := newFake()
			f.err = fmt.Errorf("why: %w", c.err)
			stdout, stderr, exit := runCommand(f, "", append([]string{"ipvsadm"}, strings.Fields(line)...))
			if stderr != c.text || exit != c.exit || stdout != "" {
				t.Errorf("%s, %v: exit %d, %q, %q; want %d, %q", v, c.err, exit, stdout, stderr, c.exit, c.text)
			}
		}
	}
}

// A restore does not go on when nobody is there to hear it.
func TestRestoreWithoutDaemon(t *testing.T) {
	f := newFake()
	f.err = ulvs.ErrUnreachable
	_, stderr, exit := runCommand(f, strings.Repeat("-A -t 10.0.0.1:80\n", 100), []string{"ipvsadm", "-R"})
	if exit != 2 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit %d, %q", exit, stderr)
	}
}

// Help and version need no daemon.
func TestHelpWithoutDaemon(t *testing.T) {
	for _, flag := range []string{"-h", "-v"} {
		f := newFake()
		f.err = ulvs.ErrUnreachable
		if stdout, stderr, exit := runCommand(f, "", []string{"ipvsadm", flag}); exit != 0 || stderr != "" || stdout == "" {
			t.Errorf("%s: exit %d, %q", flag, exit, stderr)
		}
	}
}

// What the original cannot be asked: its kernel would start a daemon, or it
// crashes.
func TestOwnAnswers(t *testing.T) {
	for line, want := range map[string]string{
		"--start-daemon master":                                "ulvs has no sync daemon\n",
		"--start-daemon=backup --mcast-interface eth0":         "ulvs has no sync daemon\n",
		"--start-daemon master --mcast-group ff02::81":         "ulvs has no sync daemon\n",
		"--start-daemon master --mcast-group 224.0.0.81":       "ulvs has no sync daemon\n",
		"--start-daemon master --mcast-group ::ffff:224.0.0.1": "invalid IPv6 mcast-group `::ffff:224.0.0.1'\n",
		"-A -t 10.0.0.1:80 -b ,":                               "invalid scheduler flag `,'\n",
	} {
		stdout, stderr, exit := runCommand(newFake(), "", append([]string{"ipvsadm"}, strings.Fields(line)...))
		if stderr != want || stdout != "" || exit == 0 {
			t.Errorf("%s: exit %d, %q", line, exit, stderr)
		}
	}
	stdout, stderr, exit := runCommand(newFake(), "--start-daemon master\n-L --timeout\n", []string{"ipvsadm", "-R"})
	if exit != 0 || stderr != "ulvs has no sync daemon\n" || !strings.HasPrefix(stdout, "Timeout") {
		t.Errorf("a rules file with a sync daemon: exit %d, %q, %q", exit, stdout, stderr)
	}
}

// TestTables compares the tables with each other: an option that one of them
// forgets would be taken for a second command, or never be illegal.
func TestTables(t *testing.T) {
	inNoCombination := map[topic]bool{}
	for id := range topicOf {
		inNoCombination[topicOf[id]] = true
	}
	if len(inNoCombination) != int(topics) {
		t.Errorf("%d topics have options, of %d", len(inNoCombination), topics)
	}
	shorts, longs := map[byte]bool{}, map[string]optionID{}
	for _, o := range optionTable {
		if o.short != 0 && (shorts[o.short] || o.id < 0x100 && byte(o.id) != o.short && o.long != "list") {
			t.Errorf("-%c: twice, or not its ID", o.short)
		}
		shorts[o.short] = true
		if id, ok := longs[o.long]; ok && id != o.id {
			t.Errorf("--%s: twice", o.long)
		}
		longs[o.long] = o.id
		_, isVerb := verbs[o.id]
		_, hasTopic := topicOf[o.id]
		other := o.id == 'h' || o.id == 'v' || o.id == '6' || o.id == optSort
		if n := b2i(isVerb) + b2i(hasTopic) + b2i(other); n != 1 {
			t.Errorf("--%s is in %d tables", o.long, n)
		}
	}
	for _, c := range verbCombinations {
		if c.name == "" || c.required&c.optional|c.optional&c.exclusive|c.required&c.exclusive != 0 {
			t.Errorf("%q: a topic is in two sets", c.name)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestZeroCommand(t *testing.T) {
	f := newFake()
	c := Command{Control: f}
	if code := c.Run(nil); code != 0 {
		t.Errorf("no words at all: %d", code)
	}
	if code := c.Run([]string{"ipvsadm", "-R"}); code != 0 {
		t.Errorf("-R of nothing: %d", code)
	}
	if code := c.Run([]string{"ipvsadm", "-Q"}); code != -1 {
		t.Errorf("-Q: %d", code)
	}
	if !reflect.DeepEqual(f.services, newFake().services) {
		t.Error("the table has changed")
	}
}

// A restore reads what comes, line by line, before the end of its input.
func TestRestoreStreams(t *testing.T) {
	f := newFake()
	pr, pw := newPipe(t)
	done := make(chan int)
	var out bytes.Buffer
	go func() {
		c := Command{Control: f, Stdin: pr, Stdout: &out, Stderr: &out, Lookup: testNames("testdata/hosts")}
		done <- c.Run([]string{"ipvsadm", "-R"})
	}()
	fmt.Fprintln(pw, "-A -t 10.0.0.1:80")
	fmt.Fprintln(pw, "-h") // ends the program with the input still open
	select {
	case code := <-done:
		if code != 0 || len(f.services) != 1 {
			t.Errorf("exit %d, %d services", code, len(f.services))
		}
	case <-time.After(time.Minute):
		t.Fatal("the restore waits for the end of its input")
	}
}

// A real server whose packets will be dropped is worth a word, which is not the
// original's and goes elsewhere.
func TestWarnings(t *testing.T) {
	var out, warnings bytes.Buffer
	c := Command{Control: newFake(), Stdout: &out, Stderr: &out, Warnings: &warnings, Lookup: testNames("testdata/hosts")}
	for _, line := range []string{
		"-A -t 10.0.0.1:80", "-a -t 10.0.0.1:80 -r 10.0.0.2 -g", "-a -t 10.0.0.1:80 -r 10.0.0.3:8080 -m", "-e -t 10.0.0.1:80 -r 10.0.0.2:80 -i", "-e -t 10.0.0.1:80 -r 10.0.0.9:80 -i",
	} {
		c.Run(append([]string{"ipvsadm"}, strings.Fields(line)...))
	}
	const want = "ulvs: warning: packets for real server 10.0.0.3:8080 are dropped: ulvs forwards by direct routing (-g) only\n" +
		"ulvs: warning: packets for real server 10.0.0.2:80 are dropped: ulvs forwards by direct routing (-g) only\n"
	if warnings.String() != want || out.String() != "No such destination\n" {
		t.Errorf("warned %q, said %q", &warnings, &out)
	}
}
