package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

var update = flag.Bool("update", false, "write the golden files anew")

// asProgram in the environment makes the test binary the ulvs binary, so that
// the daemon and the demo that a test starts are what is tested.
const asProgram = "ULVS_TEST_PROGRAM"

// waiting is how many tests run at once of those that may: they mostly wait, for clocks and
// for what the kernel takes its time over. What floods, measures or counts on a processor
// for itself is not among them, and is over before they begin.
//
// A host that is made sees the BPF file systems of other tests' pins, by paths that it is not
// told, and holds them until it ends: that costs memory, and changes nothing for anybody.
const waiting = "4"

func TestMain(m *testing.M) {
	becomeBridged()
	if os.Getenv(asProgram) != "" {
		if dir := os.Getenv(insideDir); dir != "" {
			tellInside(dir)
		}
		os.Exit(run(os.Args))
	}
	_ = flag.Set("test.parallel", waiting) // what is given on the command line comes after
	code, ran, err := lab.Unshare()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if !ran {
		os.Setenv(asProgram, "1")
		code = m.Run()
	}
	os.Exit(code)
}

// The demo does what it says, and says it in the same words each time.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	if err := demo(ctx, &out, false); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	if !strings.Contains(out.String(), "10 of 10 claims came true") {
		t.Fatal(out.String())
	}
}

// site is a director host with an interface, and a daemon that a test starts.
type site struct {
	t        *testing.T
	lab      *lab.Lab
	director *lab.Host
	client   *lab.Host
	server   *lab.Host
	dir      string
	binary   string // another ulvs, or "" for this one
}

// program is the ulvs that is tested.
func (s *site) program() string {
	if s.binary != "" {
		return s.binary
	}
	return "/proc/self/exe"
}

// patience is how long a test waits for what is due: so long that it is not the machine's
// fault if it does not come.
const patience = time.Minute

// part is a part of a test's course, whose failures are its own.
func (s *site) part(name string, f func()) {
	whole := s.t
	whole.Run(name, func(t *testing.T) {
		s.t = t
		defer func() { s.t = whole }()
		f()
	})
}

func newSite(t *testing.T) *site {
	t.Helper()
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, lab: l, dir: t.TempDir()}
	t.Cleanup(func() { l.Close() })
	add := func(name, addr string) *lab.Host {
		h, err := l.Add(lab.HostConfig{Name: name, Addrs: prefixes(addr)})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	s.director = add("director", "192.168.10.100/24")
	s.client = add("client", "192.168.10.1/24")
	s.server = add("r0", "192.168.10.200/24")
	return s
}

// ulvs runs a command in the director's namespace: its output, both streams,
// and its exit status.
func (s *site) ulvs(stdin string, words ...string) (string, int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.director.Command(ctx, s.program(), words[1:]...)
	c.Args[0] = words[0]
	c.Dir = s.dir
	c.Stdin = strings.NewReader(stdin)
	c.Env = append(os.Environ(), "ULVS_CONTROL="+filepath.Join(s.dir, "ulvs.sock"))
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		s.t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// commands carries out some, a line each, which print nothing.
func (s *site) commands(text string) {
	s.t.Helper()
	for line := range strings.Lines(strings.TrimSpace(text)) {
		if out, code := s.ulvs("", strings.Fields(line)...); code != 0 || out != "" {
			s.t.Fatalf("%s: %s", line, out)
		}
	}
}

// start starts a daemon that ends with the test.
func (s *site) start(args ...string) *lab.Cmd {
	s.t.Helper()
	sock := filepath.Join(s.dir, "ulvs.sock")
	c := s.director.Command(context.Background(), s.program(), append([]string{"run", "--control", sock, "--connections", "10000", "--pin", noPins}, args...)...)
	return s.ready(c)
}

// ready starts a daemon, which ends with the test, and waits until it is ready.
func (s *site) ready(c *lab.Cmd) *lab.Cmd {
	s.t.Helper()
	if i := slices.Index(c.Args, "--plane"); i >= 0 && slices.Contains(c.Args[i:], "xdp") {
		if err := s.lab.TakeXDP(s.director); err != nil {
			s.t.Fatal(err)
		}
	}
	log := new(said)
	c.Stderr = log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if c.ProcessState == nil {
			s.stop(c)
		}
	})
	log.await(s.t, "msg=ready")
	return c
}

// said is what a daemon has said so far.
type said struct{ lab.Output }

// await waits until it has said a text. A daemon is ready when it says so: its socket
// answers a little before, and one that it takes over from answers all the time.
func (l *said) await(t *testing.T, text string) {
	t.Helper()
	for began := time.Now(); !strings.Contains(l.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("the daemon did not say %q: %s", text, l)
		}
	}
}

// stop ends a daemon as a service manager does; it must end cleanly.
func (s *site) stop(c *lab.Cmd) {
	s.t.Helper()
	_ = c.Process.Signal(unix.SIGTERM)
	if err := c.Wait(); err != nil {
		s.t.Errorf("the daemon ended with %v: %s", err, c.Stderr)
	}
}

// Bad input: one clear line, a status that is not 0, and nothing changed.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good.rules", "-A -t 192.168.10.101:80 -s rr\n")
	write("bad.rules", "-A -t 192.168.10.101:80 -s rr\n-a -t 192.168.10.101:80 -r 192.168.10.200:80 -g -w 1\n-a -t 192.168.10.101:81 -r 192.168.10.200 -g\n")
	write("broken.rules", "-A -t 192.168.10.101:80 -s rr\nthis is no rule\n")
	write("bad.marks", "*mangle\n-A PREROUTING -p tcp --dport 80 -j TTL --ttl-set 1\nCOMMIT\n")
	write("file", "I am no socket")
	// "." is s.dir, so that no path of this machine gets into the golden file.
	before := []string{
		"ulvs run",
		"ulvs run --interface nosuch0",
		"ulvs run eth0",
		"ulvs run eth0 eth1 --plane xdp",
		"ulvs run --interface eth0,eth0",
		"ulvs run --interface eth0,",
		"ulvs run --interface eth0 --af-xdp-ring 1000",
		"ulvs run --interface eth0 --af-xdp-busy-poll 2s",
		"ulvs run --interface eth0 --af-xdp nosuch",
		"ulvs run --interface eth0 --plane nosuch",
		"ulvs run --interface eth0 --templates -1",
		"ulvs run --interface eth0 --rst-limit -1",
		"ulvs run --interface eth0 --while-address vip",
		"ulvs run --interface eth0 --while-address=",
		"ulvs run --interface eth0 --while-address auto,192.0.2.1",
		"ulvs run --interface eth0 --while-address 224.0.0.1",
		"ulvs run --interface eth0 --procfs /nonexistent",
		"ulvs run --interface eth0 --procfs /etc/hostname",
		"ulvs run --interface eth0 --procfs /proc",
		"ulvs run --interface eth0 --follow-marks --marks bad.marks",
		"ulvs run --interface eth0 --takeover --pin none",
		"ulvs run --interface eth0 --connections 0",
		"ulvs run --interface eth0 --connections 99999999999",
		"ulvs run --interface eth0 --connections many",
		"ulvs run --interface eth0 --mac 01:00:5e:00:00:01",
		"ulvs run --interface eth0 --rules nosuch.rules",
		"ulvs run --interface eth0 --rules bad.rules",
		"ulvs run --interface eth0 --rules broken.rules",
		"ulvs run --interface eth0 --marks bad.marks",
		"ulvs run --interface eth0 --control ./file",
		"ulvs run --interface eth0 --control ./no/such/folder/sock",
		"ulvs run --nosuch",
		"ulvs nosuch",
		"ulvs bench generate",
		"ulvs bench generate --interface eth0",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 01:00:5e:00:00:01",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --client 2001:db8::1",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --flows 0",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --per-client 3",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --cpu 1-0",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --size 1500",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --seconds 0",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --rate 10000000000",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --open-rate -1",
		"ulvs bench generate --interface eth0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01 --new --udp --flows 7",
		"ulvs bench generate --interface lo --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01",
		"ulvs bench generate --interface nosuch0 --vip 192.168.10.101:80 --peer-mac 02:00:00:00:00:01",
		"ulvs bench count --interface eth0",
		"ulvs status --control ./nosuch.sock",
		"ulvs sysctl --control ./nosuch.sock",
		"ulvs ipvsadm --control ./nosuch.sock -Ln",
		"ipvsadm -Ln",
		"iptables -t mangle -S",
	}
	during := []string{
		"ulvs run --interface eth0 --control ./ulvs.sock",
		"ipvsadm -A -t 192.168.10.101:81 -s nosuch",
		"ipvsadm -A -t 192.168.10.300:81 -s rr",
		"ipvsadm -A -t 192.168.10.101:80 -s rr",
		"ipvsadm -a -t 192.168.10.101:81 -r 192.168.10.200 -g",
		"ipvsadm -a -t 192.168.10.101:80 -r 224.0.0.1 -g",
		"ipvsadm -X",
		"ipvsadm --start-daemon master",
		"ipvsadm --stop-daemon master",
		"iptables -A PREROUTING -p tcp --dport 80 -j MARK --set-mark 10",
		"iptables -t mangle -A PREROUTING -p tcp --dport 80 -j TTL --ttl-set 1",
		"iptables -t mangle -A PREROUTING -p tcp --dport 99999 -j MARK --set-mark 10",
		"iptables -t mangle -D PREROUTING 1",
		"ulvs sysctl net.ipv4.vs.nosuch=1",
		"ulvs sysctl net.ipv4.vs.conn_reuse_mode=many",
		"ulvs sysctl net.ipv4.ip_forward=1",
	}
	var got strings.Builder
	try := func(line string) {
		out, code := s.ulvs("", strings.Fields(line)...)
		fmt.Fprintf(&got, "$ %s (exit %d)\n", line, code)
		for l := range strings.Lines(out) {
			fmt.Fprintf(&got, "  %s\n", strings.TrimRight(l, " \n"))
		}
		if code == 0 {
			t.Errorf("%s: exit 0", line)
		}
		if n := strings.Count(out, "\n"); n != 1 {
			t.Errorf("%s: %d lines:\n%s", line, n, out)
		}
	}
	for _, line := range before {
		try(line)
	}
	s.start("--interface", "eth0", "--rules", filepath.Join(s.dir, "good.rules"))
	tables := func() (all string) {
		for _, c := range []string{"ipvsadm -Sn", "iptables-save", "ulvs sysctl"} {
			out, code := s.ulvs("", strings.Fields(c)...)
			if code != 0 {
				t.Fatalf("%s: %s", c, out)
			}
			all += out
		}
		return all
	}
	was := tables()
	for _, line := range during {
		try(line)
	}
	if is := tables(); is != was {
		t.Errorf("something has changed:\n%s", cmp.Diff(was, is))
	}
	golden(t, "bad-input.golden", strings.ReplaceAll(got.String(), s.dir, "DIR"))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", path, diff)
	}
}

// Without privileges there is one line that says so.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to give it up")
	}
	c := exec.Command("/proc/self/exe", "run", "--interface", "lo", "--control", filepath.Join("/tmp", fmt.Sprintf("ulvs-test-%d.sock", os.Getpid())))
	c.SysProcAttr = unprivileged()
	out, err := c.CombinedOutput()
	_ = os.Remove(c.Args[5] + ".lock")
	if err == nil || bytes.Count(out, []byte("\n")) != 1 || !bytes.Contains(out, []byte("packet sockets need CAP_NET_RAW, and nftables CAP_NET_ADMIN: run as root or in a user namespace: ")) {
		t.Fatalf("%v: %s", err, out)
	}
}

// Saved rules restore to the same rules, by -R and by --rules; what Debian's
// ipvsadm saved does too.
func TestSaveRestore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.start("--interface", "eth0")
	const rules = `-A -t 192.168.10.101:0 -s rr -p 300
-a -t 192.168.10.101:0 -r 192.168.10.200:0 -g -w 1
-A -t 192.168.10.101:80 -s wrr -p 300 -M 255.255.255.0
-a -t 192.168.10.101:80 -r 192.168.10.200:80 -g -w 10
-a -t 192.168.10.101:80 -r 192.168.10.201:80 -g -w 8
-A -f 10 -s wlc
-a -f 10 -r 192.168.10.200:0 -g -w 70000
`
	if out, code := s.ulvs(rules, "ipvsadm", "-R"); code != 0 || out != "" {
		t.Fatalf("exit %d: %s", code, out)
	}
	saved, _ := s.ulvs("", "ipvsadm", "-Sn")
	if diff := cmp.Diff(rules, saved); diff != "" {
		t.Fatal(diff)
	}
	s.stop(d)
	file := filepath.Join(s.dir, "rules")
	if err := os.WriteFile(file, []byte(saved), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start("--interface", "eth0", "--rules", file)
	if again, _ := s.ulvs("", "ulvs", "ipvsadm", "-Sn"); again != rules {
		t.Fatal(cmp.Diff(rules, again))
	}
}
