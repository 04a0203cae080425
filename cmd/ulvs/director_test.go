package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// documented are the rights that docs/changes.md asks for.
var documented = []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}

// nobody has a command run as another user than root, with the documented rights alone.
func nobody(c *lab.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: documented}
}

// With the documented rights alone, which do not tell whose a program is, no daemon begins
// behind the program of another one that was stopped or killed, nor on the interface of one
// that runs.
func TestSecondDirector(t *testing.T) {
	for _, plane := range []string{"tcx", "xdp"} {
		t.Run(plane, func(t *testing.T) { secondDirector(t, plane) })
	}
}

func secondDirector(t *testing.T, plane string) {
	t.Parallel()
	s := newPinSite(t)
	run := func() *lab.Cmd {
		return s.start("--interface", "eth0", "--plane", plane, "--pin", s.pins, "--connections", "40000")
	}
	free := t.TempDir() // where anybody may write
	for _, dir := range []string{free, filepath.Dir(free), filepath.Dir(s.pins)} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	exe := filepath.Join(free, "ulvs")
	if out, err := exec.Command("cp", program(t), exe).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	command := func(words ...string) *lab.Cmd {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		t.Cleanup(cancel)
		c := s.director.Command(ctx, exe, append([]string{"run", "--control", filepath.Join(free, "second.sock"), "--interface", "eth0",
			"--connections", "10000", "--pin", filepath.Join(filepath.Dir(s.pins), "second")}, words...)...)
		nobody(c)
		return c
	}
	refused := func(when, want string) {
		t.Helper()
		for _, plane := range []string{"auto", "xdp", "afpacket"} {
			before := s.outside(s.pins)
			c := command("--plane", plane)
			log := new(said)
			c.Stdout, c.Stderr = log, log
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			_ = c.Wait()
			if out := log.String(); c.ProcessState.ExitCode() != 1 || !strings.Contains(out, want) || strings.Contains(out, "ready") {
				t.Errorf("%s, --plane %s: %v: %s", when, plane, c.ProcessState, out)
			}
			if d := cmp.Diff(before, s.outside(s.pins)); d != "" {
				t.Errorf("%s, --plane %s: it has changed something (-before +after):\n%s", when, plane, d)
			}
		}
	}
	const other = "another ulvs daemon's program is in front of it"
	first := run()
	// Packets do not wait for the table that says whose the interface is.
	if plane == "xdp" {
		s.until(s.pins, func(out string) bool { return strings.Contains(out, "table ulvs-eth0") })
	}
	refused("while it runs, without services", "another ulvs has interface eth0")
	s.stop(first)
	refused("after it was stopped, without services", other)
	first = run()
	s.serve()
	refused("while it runs", "another ulvs has interface eth0")
	_ = first.Process.Kill()
	_ = first.Wait()
	refused("after it was killed", other)
	// What tells is gone: the program may be anybody's.
	if s.flushRuleset(); plane == "tcx" {
		private := s.link(fmt.Sprint("ulvs", s.link("eth0").Attrs().Index))
		if err := s.director.Netlink().LinkDel(private); err != nil {
			t.Fatal(err)
		}
	}
	begins := []string{"afpacket"}
	if plane == "tcx" { // where programs are beside each other
		begins = []string{"afpacket", "auto", "tcx"}
	} else {
		before := s.outside(s.pins)
		for _, other := range []string{"auto", "xdp"} {
			c := command("--plane", other)
			out, err := c.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "there is an XDP program in front of it which this process may not look at") || !strings.Contains(string(out), "--plane afpacket") {
				t.Errorf("--plane %s, and nothing tells: %v: %s", other, err, out)
			}
		}
		if d := cmp.Diff(before, s.outside(s.pins)); d != "" {
			t.Errorf("it has changed something (-before +after):\n%s", d)
		}
	}
	for _, other := range begins {
		c := command("--plane", other, "--pin", noPins)
		warns := new(said)
		c.Stderr = warns
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		warns.await(t, `level=WARN msg="a BPF program is in front of an interface, which this process may not look at`)
		warns.await(t, "msg=ready")
		s.stop(c)
	}
	// The first daemon itself, and one with these rights on a free interface, begin.
	s.stop(run())
	s.detach("--pin", s.pins)
	for range 2 { // and goes on with what it has kept
		c := command("--plane", plane)
		log := new(said)
		c.Stderr = log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		log.await(t, "msg=ready")
		s.stop(c)
		if strings.Contains(log.String(), "WARN") && !strings.Contains(log.String(), "packets may be lost by it") {
			t.Errorf("with the documented rights: %s", log)
		}
	}
}

// A daemon that is started in another time namespace, whose clock is a day ahead or nearly as
// far back as it goes, goes on with all connections, as does the next one outside; and all
// count what they have left alike.
func TestTimeNamespace(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	first := s.run()
	s.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s rr -p 600
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g
		ipvsadm --set 600 100 200
	`)
	const flows = 50
	number := uint32(1)
	for flow := range uint32(flows) {
		for _, flags := range []string{"S", "A"} {
			s.send(s.frame(flow, 80, flags, number))
			s.got(number, 1)
			number++
		}
	}
	established := func(who string) {
		t.Helper()
		out := s.output("ipvsadm -Lnc")
		n, alive := 0, 0
		for line := range strings.Lines(out) {
			if words := strings.Fields(line); len(words) > 2 && words[2] == "ESTABLISHED" {
				n++
				if strings.HasPrefix(words[1], "09:") || strings.HasPrefix(words[1], "10:") {
					alive++
				}
			}
		}
		if n != flows || alive != flows {
			t.Errorf("%s: %d connections are established and %d of them have nine minutes left, not %d:\n%s", who, n, alive, flows, out)
		}
		for flow := range uint32(flows) {
			s.send(s.frame(flow, 80, "PA", number+flow))
		}
		s.got(number, flows)
		number += flows
	}
	established("the first daemon")
	s.stop(first)
	for _, offset := range []string{"86400", "-" + fmt.Sprint(uptime(t)/2)} {
		ns := s.timeNamespace(offset)
		inside := s.startBy([]string{"nsenter", "--time=" + ns}, "--interface", "eth0", "--plane", *fast, "--pin", s.pins, "--connections", "40000")
		time.Sleep(300 * time.Millisecond) // some ticks, at which a wrong clock ends connections
		established("in a time namespace of " + offset)
		s.stop(inside)
		outside := s.run()
		time.Sleep(300 * time.Millisecond)
		established("after one in a time namespace of " + offset)
		s.stop(outside)
	}
}

// uptime is how many seconds CLOCK_MONOTONIC counts.
func uptime(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Sec
}

// timeNamespace makes a time namespace whose CLOCK_MONOTONIC is so many seconds ahead, and
// returns the file that stands for it.
func (s *site) timeNamespace(seconds string) string {
	s.t.Helper()
	c := exec.Command("unshare", "--time", "--monotonic", seconds, "--fork", "--kill-child", "cat")
	in, err := c.StdinPipe()
	if err == nil {
		var out strings.Builder
		c.Stderr = &out
		err = c.Start()
	}
	if err != nil {
		s.t.Skipf("time namespaces need unshare(1): %v", err)
	}
	s.t.Cleanup(func() {
		in.Close() // which ends cat
		_ = c.Wait()
	})
	// It is in the namespace of its children, of which cat is one.
	ns := fmt.Sprintf("/proc/%d/ns/time_for_children", c.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		s.t.Skipf("this kernel has no time namespaces: %v", err)
	}
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.Process.Pid, c.Process.Pid))
		other, _ := os.Readlink(ns)
		if err == nil && len(children) > 0 && other != own {
			return ns
		}
		if time.Since(begin) > 10*time.Second {
			s.t.Fatalf("no time namespace: %s, %v", children, err)
		}
	}
}

// startBy is start with words before the program's.
func (s *site) startBy(by []string, args ...string) *lab.Cmd {
	s.t.Helper()
	words := slices.Concat(by, []string{program(s.t), "run", "--control", filepath.Join(s.dir, "ulvs.sock")}, args)
	c := s.director.Command(context.Background(), words[0], words[1:]...)
	return s.ready(c)
}
