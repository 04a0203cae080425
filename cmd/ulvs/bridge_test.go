package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/control"
	"github.com/ulvs/ulvs/internal/lab"
)

// bridgeSite is a site on which Debian's ipvsadm, which speaks netlink, runs under ulvs bridge.
type bridgeSite struct {
	*site
	ipvsadm string
	daemon  *lab.Cmd
}

func newBridgeSite(t *testing.T) *bridgeSite {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a filter that asks a supervisor needs root")
	}
	path, err := exec.LookPath("ipvsadm")
	if err != nil {
		t.Skip("no ipvsadm: apt-get install ipvsadm")
	}
	s := &bridgeSite{site: newSite(t), ipvsadm: path}
	s.daemon = s.start("--interface", "eth0", "--plane", "afpacket")
	return s
}

// bridged is a command under the bridge.
func (s *bridgeSite) bridged(words ...string) *lab.Cmd {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	all := append([]string{"bridge", "exec", "--control", filepath.Join(s.dir, "ulvs.sock"), "--"}, words...)
	c := s.director.Command(ctx, s.program(), all...)
	c.Dir = s.dir
	return c
}

// marked makes a service by mark.
func (s *bridgeSite) marked() {
	s.t.Helper()
	if out, status := s.ulvs("", "ipvsadm", "-A", "-f", "10", "-s", "rr"); status != 0 {
		s.t.Fatal(out)
	}
}

// supervisors are the processes that answer for this site's daemon.
func (s *bridgeSite) supervisors() (list []int) {
	s.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, file := range files {
		line, _ := os.ReadFile(file) // it may have ended
		words := "\x00supervise\x00--control\x00" + filepath.Join(s.dir, "ulvs.sock") + "\x00"
		if pid, err := strconv.Atoi(strings.Split(file, "/")[2]); err == nil && strings.Contains(string(line), words) {
			list = append(list, pid)
		}
	}
	return list
}

// waiting is a shell under the bridge that waits to be told to run a script. proceed tells it, and
// returns what it prints until it ends.
func (s *bridgeSite) waiting(script string) (c *lab.Cmd, proceed func() (string, error)) {
	s.t.Helper()
	c, out := s.bridged("sh", "-c", "read go; "+script), new(said)
	c.Stdout, c.Stderr = out, out
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return c, func() (string, error) {
		if _, err := in.Write([]byte("go\n")); err != nil {
			return "", err
		}
		err := c.Wait()
		return out.String(), err
	}
}

// says is what a command under the bridge prints, and its exit status.
func (s *bridgeSite) says(words ...string) (string, int) {
	s.t.Helper()
	c := s.bridged(words...)
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		s.t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// alike gives commands to Debian's ipvsadm, which program runs, and compares what it lists with what
// ours does.
func (s *bridgeSite) alike(program []string, lines string) {
	s.t.Helper()
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		got, status := s.says(slices.Concat(program, words)...)
		switch words[0] {
		case "-Ln", "-Sn", "-L":
			want, wantStatus := s.ulvs("", append([]string{"ipvsadm"}, words...)...)
			if got != want || status != wantStatus {
				s.t.Errorf("ipvsadm %s: %d\n%sours: %d\n%s", strings.TrimSpace(line), status, got, wantStatus, want)
			}
		default:
			s.t.Logf("ipvsadm %s: %d %s", strings.TrimSpace(line), status, strings.TrimSpace(got))
		}
	}
}

// Debian's ipvsadm under the bridge says and does what ours does.
func TestBridge(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.alike([]string{s.ipvsadm}, `-A -t 192.168.10.101:80 -s rr -p 300
-a -t 192.168.10.101:80 -r 192.168.10.200:80 -g
-a -t 192.168.10.101:80 -r 192.168.10.201:80 -g -w 3 -x 100 -y 50
-A -u 192.168.10.101:53 -s mh -b mh-port -o
-A -t [fd00::101]:80 -s wrr -p 60 -M 64
-a -t [fd00::101]:80 -r [fd00::200] -i --tun-type gue --tun-port 6080 -w 2
-A -f 10 -s wlc
-a -f 10 -r 192.168.10.200:0 -g
-A -f 10 -6 -s sh
-A -t 192.168.10.101:5060 -s rr -p 60 --pe sip
-A -t 192.168.10.101:80 -s rr
-a -t 192.168.10.101:80 -r 192.168.10.200:80 -g
-E -t 192.168.10.101:81 -s rr
-D -f 11
-d -f 10 -r 192.168.10.209:0
-A -t 192.168.10.101:82 -s nosuch
-e -t 192.168.10.101:80 -r 192.168.10.200:80 -g -w 0
-Z -t 192.168.10.101:80
--set 700 0 200
-Ln
-Ln --stats
-Ln --rate
-Ln --thresholds
-Ln --persistent-conn
-Ln -t 192.168.10.101:80
-Ln -f 11
-L --timeout
-L --daemon
-Sn
-Z
`)
	if got, _ := s.says("sh", "-c", s.ipvsadm+" -C && "+s.ipvsadm+" -Sn"); got != "" {
		t.Errorf("after -C: %s", got)
	}
}

// The program keeps its process id, has no child that it did not start, and ends with its own
// status; its supervisor ends too.
func TestBridgeProcess(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	c := s.bridged("sh", "-c", "cat /proc/$$/status | grep -c Seccomp_filters; cat /proc/$$/task/$$/children; echo $$; exit 7")
	out, _ := c.CombinedOutput()
	// The one child is the cat that looks.
	words := strings.Fields(string(out))
	if len(words) != 3 || words[0] != "1" || words[2] != fmt.Sprint(c.Process.Pid) || c.ProcessState.ExitCode() != 7 {
		t.Errorf("process %d, %v: %q", c.Process.Pid, c.ProcessState, words)
	}
	for begin := time.Now(); len(s.supervisors()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("the supervisor is there: %v", s.supervisors())
		}
	}
	for program, want := range map[string]int{"/nonexistent": 127, "/etc/passwd": 126, "nosuchprogram": 127} {
		if out, status := s.says(program); status != want || !strings.HasPrefix(out, "ulvs bridge exec: ") {
			t.Errorf("%s: %d, want %d: %s", program, status, want, out)
		}
	}
}

// Without a daemon it is as if the module was not loaded. One that is started then is spoken to
// by a program that was there before.
func TestBridgeAway(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.stop(s.daemon)
	if out, status := s.says(s.ipvsadm, "-Ln"); status != 2 || !strings.Contains(out, "Are you sure that IP Virtual Server is built in the kernel or as module?") {
		t.Errorf("%d: %s", status, out)
	}
	_, proceed := s.waiting(s.ipvsadm + " -Ln")
	s.start("--interface", "eth0", "--plane", "afpacket")
	if out, err := proceed(); err != nil || !strings.HasPrefix(out, "IP Virtual Server version 1.2.1") {
		t.Errorf("%v: %s", err, out)
	}
}

// A program without CAP_NET_ADMIN may not even look, as with the kernel.
func TestBridgeRights(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	out, status := s.says("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", s.ipvsadm, "-Ln")
	if status == 0 || !strings.Contains(out, "Permission denied (you must be root)") {
		t.Errorf("%d: %s", status, out)
	}
	// Who has a network namespace of his own has none of the daemon's.
	s.marked()
	out, status = s.says("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "unshare", "-Urn", s.ipvsadm, "-C")
	if status == 0 {
		t.Errorf("somebody else has cleared the table: %s", out)
	}
	if out, _ := s.says(s.ipvsadm, "-Sn"); out != "-A -f 10 -s rr\n" {
		t.Errorf("the table is %q", out)
	}
}

// In whatever network namespace a child is, it speaks to the daemon, and gets its answers there.
func TestBridgeNamespaces(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.marked()
	if out, status := s.says("unshare", "-n", s.ipvsadm, "-Sn"); status != 0 || out != "-A -f 10 -s rr\n" {
		t.Errorf("%d: %s", status, out)
	}
}

// Whatever its limit of descriptors, a program is served; its sockets are below it.
func TestBridgeLimits(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.marked()
	for _, limit := range []uint64{64, 128, 256, 1024, 4096} {
		c := s.bridged("sh", "-c", "ulimit -n; "+s.ipvsadm+" -Sn")
		c.Args = append([]string{"prlimit", fmt.Sprintf("--nofile=%d:%d", limit, limit), program(t)}, c.Args[1:]...)
		path, err := exec.LookPath("prlimit")
		if err != nil {
			t.Fatal(err)
		}
		c.Path = path
		if out, err := c.CombinedOutput(); err != nil || string(out) != fmt.Sprintf("%d\n-A -f 10 -s rr\n", limit) {
			t.Errorf("a limit of %d: %v: %s", limit, err, out)
		}
	}
	out, status := s.says("sh", "-c", "ulimit -n 40; "+program(t)+" bridge exec -- true")
	if status != 125 || !strings.Contains(out, "a limit of 40 descriptors is too small: give ulimit -n 64 or more") {
		t.Errorf("a limit of 40: %d: %s", status, out)
	}
}

// A bridge under a bridge says what is wrong or, asked to, runs the program as it is.
func TestBridgeNested(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.marked()
	socket := filepath.Join(s.dir, "ulvs.sock")
	exe := program(t)
	for _, more := range [][]string{{"--if-needed"}, nil} {
		words := append(append([]string{exe, "bridge", "exec", "--control", socket}, more...), "--", s.ipvsadm, "-Sn")
		if out, status := s.says(words...); status != 0 || out != "-A -f 10 -s rr\n" {
			t.Errorf("%q: %d: %s", more, status, out)
		}
	}
	s.stop(s.daemon)
	if out, status := s.says(exe, "bridge", "exec", "--control", socket, "--", "true"); status != 125 ||
		!strings.Contains(out, "a supervisor is asked already about this process's system calls") {
		t.Errorf("nobody answers: %d: %s", status, out)
	}
}

// Who kills the supervisor has what it answered fail from then on, and nothing else.
func TestBridgeSupervisorKilled(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	c, proceed := s.waiting(s.ipvsadm + " -Ln; echo and so on")
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.Process.Pid))
		if strings.TrimSpace(string(comm)) == "sh" && len(s.supervisors()) == 1 {
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("%s has the supervisors %v", comm, s.supervisors())
		}
	}
	if err := syscall.Kill(s.supervisors()[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out, err := proceed(); err != nil || !strings.Contains(out, "Can't initialize ipvs") || !strings.HasSuffix(out, "and so on\n") {
		t.Errorf("%v: %s", err, out)
	}
}

// A listing of 4,000 real servers is whole, though a socket has no room for it at once.
func TestBridgeLarge(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	var rules strings.Builder
	rules.WriteString("-A -f 10 -s rr\n")
	const servers = 4000
	for i := range servers {
		fmt.Fprintf(&rules, "-a -f 10 -r 10.0.%d.%d:0 -g\n", i/250, 1+i%250)
	}
	if out, status := s.ulvs(rules.String(), "ipvsadm", "-R"); status != 0 {
		t.Fatal(out)
	}
	out, status := s.says(s.ipvsadm, "-Sn")
	if n := strings.Count(out, "\n-a "); status != 0 || n != servers {
		t.Errorf("%d: %d real servers, ends with %q", status, n, out[max(0, len(out)-200):])
	}
}

// Sixteen shells of eighty commands each, at once.
func TestBridgeMany(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	const shells, commands = 16, 80
	script := fmt.Sprintf(`for s in $(seq %d); do
( for i in $(seq %d); do %s -A -f $((s*100+i)) -s rr || echo failed; done ) & done; wait; %s -Sn | wc -l`, shells, commands, s.ipvsadm, s.ipvsadm)
	if out, status := s.says("sh", "-c", script); status != 0 || out != fmt.Sprintln(shells*commands) {
		t.Errorf("%d: %s", status, out)
	}
}

// A daemon that is busy for longer than a command waits is waited for, as the kernel is.
func TestBridgeBusy(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	_ = s.daemon.Process.Signal(unix.SIGSTOP)
	time.AfterFunc(control.DefaultPatience+time.Second, func() { _ = s.daemon.Process.Signal(unix.SIGCONT) })
	if out, status := s.says(s.ipvsadm, "-A", "-f", "10", "-s", "rr"); status != 0 || out != "" {
		t.Errorf("%d: %s", status, out)
	}
	if got, status := s.says(s.ipvsadm, "-Sn"); got != "-A -f 10 -s rr\n" {
		t.Errorf("the daemon has %q (%d)", got, status)
	}
}
