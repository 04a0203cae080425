package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// A daemon that is stopped, goes on, is killed: what commands say, and what status tells
// from the pins.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	d := s.run("--plane", "xdp")
	s.serve()
	s.send(s.frame(1, 80, "S", 1))
	s.got(1, 1)
	s.send(s.frame(1, 80, "A", 2))
	s.got(2, 1)
	s.commands(`
		ipvsadm -A -f 10 -s wlc -p 300
		ipvsadm -a -f 10 -r 192.168.10.200 -g
		ipvsadm -a -f 10 -r 192.168.10.201 -g
		ipvsadm -d -f 10 -r 192.168.10.200
		ipvsadm -A -u 192.168.10.101:53 -s rr
		ipvsadm -a -u 192.168.10.101:53 -r 192.168.10.201 -g
		ipvsadm -D -u 192.168.10.101:53
	`)
	status := []string{"ulvs", "status", "--pin", s.pins}
	var text strings.Builder
	// All at once, as each waits for five seconds.
	ask := func(commands ...[]string) {
		answers := make([]string, len(commands))
		var wg sync.WaitGroup
		for i, words := range commands {
			wg.Go(func() {
				out, code := s.ulvs("-A -t 192.168.10.101:82 -s rr\n", words...)
				answers[i] = fmt.Sprintf("$ %s (exit %d)\n%s", strings.Join(words, " "), code, out)
			})
		}
		wg.Wait()
		for _, answer := range answers {
			text.WriteString(answer)
		}
	}
	_ = d.Process.Signal(unix.SIGSTOP)
	ask(status, []string{"ipvsadm", "-Ln"}, []string{"ipvsadm", "-A", "-t", "192.168.10.101:81", "-s", "rr"},
		[]string{"ipvsadm", "-R"}, []string{"iptables", "-t", "mangle", "-S"}, []string{"ulvs", "sysctl"},
		[]string{"ulvs", "detach", "--pin", s.pins},
		[]string{"ulvs", "run", "--interface", "eth0", "--plane", "xdp", "--control", "ulvs.sock", "--pin", s.pins, "--connections", "40000", "--takeover"})
	_ = d.Process.Signal(unix.SIGCONT)
	if got := s.output("ipvsadm -Sn"); strings.Contains(got, ":81") || strings.Contains(got, ":82") {
		t.Errorf("a command that had given up was carried out:\n%s", got)
	}
	_ = d.Process.Kill()
	_ = d.Wait()
	s.awaitUnanswered()
	ask(status, append(slices.Clone(status), "--json"))
	s.output("ulvs detach --pin " + s.pins)
	ask(status)
	got := text.String()
	for _, vary := range [][2]string{
		{regexp.QuoteMeta(s.pins) + `[^\s"]*`, "PINS"}, {regexp.QuoteMeta(s.dir), "DIR"}, {fmt.Sprint(d.Process.Pid), "PID"},
		{`life is [0-9.]+m?s old`, "life is SOME s old"},
	} {
		got = regexp.MustCompile(vary[0]).ReplaceAllString(got, vary[1])
	}
	golden(t, "unanswered.golden", got)
}

// awaitUnanswered waits until the program that a daemon left forwards by itself.
func (s *pinSite) awaitUnanswered() {
	s.t.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		out, _ := s.ulvs("", "ulvs", "status", "--pin", s.pins)
		if strings.Contains(out, "new ones wait") {
			return
		}
		if time.Since(began) > time.Minute {
			s.t.Fatalf("no daemon runs, and status says\n%s", out)
		}
	}
}

// While a daemon takes over, commands come without a pause: all are carried out, once.
func TestTakeoverUnderCommands(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	daemon := s.run()
	var wg sync.WaitGroup
	end := make(chan struct{})
	given := make([]int, 3)
	for id := range given {
		wg.Go(func() {
			for {
				select {
				case <-end:
					if given[id] > 3 { // on a machine that had no time for more meanwhile
						return
					}
				default:
				}
				given[id]++
				words := []string{"ipvsadm", "-A", "-t", fmt.Sprintf("192.168.%d.101:%d", 20+id, given[id]), "-s", "rr"}
				if out, code := s.ulvs("", words...); code != 0 || out != "" {
					t.Errorf("%s: exit %d: %s", strings.Join(words, " "), code, out)
					return
				}
			}
		})
	}
	for range 3 {
		next := s.run("--takeover")
		if err := daemon.Wait(); err != nil {
			t.Errorf("the daemon that was replaced: %v\n%s", err, daemon.Stderr)
		}
		daemon = next
	}
	close(end)
	wg.Wait()
	if got := strings.Count(s.output("ipvsadm -Sn"), "\n"); got != given[0]+given[1]+given[2] || got < 10 {
		t.Errorf("%v commands were given, there are %d services", given, got)
	}
	s.stop(daemon)
}

// Signals by which others read their configuration anew, and a log that nobody reads any
// more, do not end a daemon.
func TestSignals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	out, log, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := s.director.Command(context.Background(), "/proc/self/exe", "run", "--control", filepath.Join(s.dir, "ulvs.sock"),
		"--interface", "eth0", "--plane", "afpacket", "--connections", "10000")
	c.Stderr = log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(c) })
	log.Close()
	lines := bufio.NewScanner(out)
	await := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("the daemon did not say %q", text)
	}
	await("msg=ready")
	for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2} {
		_ = c.Process.Signal(signal)
		await(`msg="a signal is ignored`)
	}
	out.Close()
	_ = c.Process.Signal(unix.SIGPIPE)
	_ = c.Process.Signal(unix.SIGHUP) // it says so to nobody
	for range 2 {
		if out, code := s.ulvs("", "ipvsadm", "-A", "-t", "192.168.10.101:80", "-s", "rr"); code != 0 {
			t.Errorf("exit %d: %s", code, out)
		}
		if out, code := s.ulvs("", "ipvsadm", "-C"); code != 0 {
			t.Errorf("exit %d: %s", code, out)
		}
	}
}

// A daemon that waits for its rules says so, and ends when it is told to.
func TestRulesNeverCome(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	pipe := filepath.Join(s.dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, option := range []string{"--rules", "--marks", "--marks6"} {
		c := s.director.Command(context.Background(), "/proc/self/exe", "run", "--control", filepath.Join(s.dir, "ulvs.sock"),
			"--interface", "eth0", "--plane", "afpacket", option, pipe)
		log := new(said)
		c.Stderr = log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		log.await(t, "waiting for the end of a file\" option="+option)
		s.stop(c)
		if !strings.Contains(log.String(), "ended before it was ready") {
			t.Errorf("it said %s", log)
		}
	}
}

// A control socket that somebody removed is there again.
func TestSocketRemoved(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("--interface", "eth0", "--plane", "afpacket")
	for _, name := range []string{"ulvs.sock", "ulvs.sock.lock"} {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		out, code := s.ulvs("", "ipvsadm", "-Ln")
		if code == 0 {
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatal(out)
		}
	}
}

// Nobody who stops to read a demo has to clean up after it.
func TestDemoHead(t *testing.T) {
	if !lab.Privileged() {
		t.Skip("namespaces have names for root only")
	}
	c := exec.Command("/proc/self/exe", "demo")
	c.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := new(said)
	c.Stderr = log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	left := func() []string {
		names, _ := filepath.Glob(fmt.Sprintf("/run/netns/ulvs-demo-%d-*", c.Process.Pid))
		return names
	}
	if len(left()) == 0 {
		t.Error("the demo has no namespaces: the test does not test")
	}
	out.Close()
	_ = c.Wait()
	if names := left(); len(names) > 0 || !strings.Contains(log.String(), "demo: interrupted") {
		t.Errorf("%s left %q and said %s", c.ProcessState, names, log)
	}
	if rest, _ := os.ReadDir(c.Env[len(c.Env)-1][len("TMPDIR="):]); len(rest) > 0 {
		t.Errorf("it left %v", rest)
	}
}
