package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	diff "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// failingStart is a start that fails at some stage.
type failingStart struct {
	stage   string
	control string // "": ulvs.sock
	words   []string
	instead string // of eth0
	want    string
	planes  []string      // nil: both
	before  func() func() // makes it fail, and returns what undoes that; or nil
}

// A start that fails takes back what it has done, at whichever stage: programs, pins,
// nftables tables and lock files are as they were.
func TestFailedStart(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	write := func(name, text string) string {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rules := write("good.rules", "-A -t 192.168.10.101:81 -s rr\n-a -t 192.168.10.101:81 -r 192.168.10.200 -g\n")
	broken := write("bad.rules", "-A -t 192.168.10.101:80 -s rr\n-A -t 192.168.10.101:82 -s nosuch\n")
	file := write("file", "I am no socket")
	list := []failingStart{
		{stage: "a socket path that is too long", control: filepath.Join(s.dir, strings.Repeat("x", 108)), want: "a unix socket's at most 107"},
		{stage: "a socket in no folder", control: filepath.Join(s.dir, "no/such/folder/sock"), want: "no such file or directory"},
		{stage: "a file in the socket's place", control: file, want: "no socket"},
		{stage: "a folder in the socket's place", control: t.TempDir(), want: "no socket"},
		{stage: "bad rules", words: []string{"--rules", broken}, want: "line 2"},
		{stage: "no rules", words: []string{"--rules", "nosuch"}, want: "nosuch"},
		{stage: "bad marks", words: []string{"--marks", broken}, want: "mark rules"},
		{stage: "no such interface", instead: "nosuch0", want: "nosuch0"},
		{stage: "no Ethernet", words: []string{"--interface", "lo"}, want: "lo is not Ethernet", planes: []string{"xdp"}},
		s.lateStart(rules),
		s.foreignProgram(),
	}
	s.failAll("where nothing was", list)
	// A daemon that kept nothing and was killed has left a table: that stays too.
	killed := s.start("--interface", "eth0", "--plane", "afpacket", "--rules", rules)
	_ = killed.Process.Kill()
	_ = killed.Wait()
	if !strings.Contains(s.outside(s.pins), "table ulvs-eth0") {
		t.Fatal("it has left no table")
	}
	s.failAll("where an earlier daemon's table was", list)
	s.stop(s.run("--rules", rules))
	list = slices.DeleteFunc(list, func(f failingStart) bool { return f.stage == "another program" })
	for i := range list { // those that are only compared are not looked at
		list[i].words = append(list[i].words, "--connections", "40000")
	}
	s.failAll("where an earlier daemon's connections and programs were, and --fresh", slices.DeleteFunc(list, func(f failingStart) bool {
		return f.stage == "the socket cannot be made"
	}), "--fresh")
	next := s.run()
	if out := fmt.Sprint(next.Stderr); !strings.Contains(out, `"adopted connections"=0`) {
		t.Errorf("the next daemon: %s", out)
	}
}

func (s *pinSite) failAll(where string, list []failingStart, more ...string) {
	s.t.Helper()
	for _, f := range list {
		for _, plane := range []string{"afpacket", *fast} {
			if f.planes != nil && !slices.Contains(f.planes, plane) {
				continue
			}
			undo := func() {}
			if f.before != nil {
				undo = f.before()
			}
			control := f.control
			if control == "" {
				control = filepath.Join(s.dir, "ulvs.sock")
			}
			before := s.outside(s.pins)
			out, code := s.attempt(slices.Concat([]string{program(s.t), "run", "--control", control, "--pin", s.pins,
				"--interface", cmp.Or(f.instead, "eth0"), "--plane", plane}, f.words, more)...)
			if code != 1 || !strings.Contains(out, f.want) {
				s.t.Errorf("%s, %s, %s: exit %d: %s", where, f.stage, plane, code, out)
			}
			if d := diff.Diff(before, s.until(s.pins, func(out string) bool { return out == before })); d != "" {
				s.t.Errorf("%s, %s, %s: it has left something (-before +after):\n%s", where, f.stage, plane, d)
			}
			undo()
		}
	}
}

// lateStart fails at the last moment: the socket's name is free, and its folder takes no
// more files.
func (s *pinSite) lateStart(rules string) failingStart {
	s.t.Helper()
	dir := filepath.Join(s.dir, "closed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sock.lock"), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL
	set := func(flags int) error { return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags) }
	s.t.Cleanup(func() { _ = set(0); f.Close() })
	if err := set(immutable); err != nil {
		s.t.Logf("this file system has no immutable folders: %v", err)
		return failingStart{stage: "the socket cannot be made", control: filepath.Join(dir, strings.Repeat("x", 108)), want: "at most"}
	}
	return failingStart{stage: "the socket cannot be made", control: filepath.Join(dir, "sock"), words: []string{"--rules", rules},
		want: "operation not permitted"}
}

// foreignProgram has another program in front of the interface, so that ours cannot be
// attached.
func (s *pinSite) foreignProgram() failingStart {
	attach := func() func() {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "another", Type: ebpf.XDP, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		if err != nil {
			s.t.Fatal(err)
		}
		var l link.Link
		if err := s.director.Do(func() (err error) {
			l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: s.director.Index(), Flags: link.XDPGenericMode})
			return err
		}); err != nil {
			s.t.Fatal(err)
		}
		return func() { _, _ = l.Close(), prog.Close() }
	}
	return failingStart{stage: "another program", want: "cannot attach an XDP program to eth0: ", planes: []string{"xdp"}, before: attach}
}

// What an earlier daemon left on an interface that is not given any more goes with the next
// start, and with detach: programs and nftables tables. What another daemon left is named,
// with the command that removes it.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	s.lostLink()
	on := func(what, name string) bool { return strings.Contains(s.outside(s.pins), what+name) }
	both := func(where string, want0, want1 bool) {
		t.Helper()
		for begin := time.Now(); on("table ulvs-", "eth0") != want0 || on("table ulvs-", "eth1") != want1; time.Sleep(5 * time.Millisecond) {
			if time.Since(begin) > 10*time.Second { // a daemon is ready a moment before it looks
				t.Fatalf("%s: not %v for eth0, %v for eth1:\n%s", where, want0, want1, s.outside(s.pins))
			}
		}
	}
	rules := filepath.Join(s.dir, "rules")
	if err := os.WriteFile(rules, []byte("-A -t 192.168.10.101:80 -s rr\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// XDP: what is kept has a program on both.
	s.stop(s.run("--plane", "xdp", "--interface", "eth1", "--rules", rules))
	both("after a daemon on both", true, true)
	if !on("eth1 has program", "") {
		t.Error("eth1 has no program")
	}
	next := s.run("--plane", "xdp")
	both("after one on eth0", true, false)
	next.Stderr.(*said).await(t, `msg="what an earlier daemon left on an interface that is not given any more is removed" interface=eth1`)
	if gone := lacks("eth1 has program", "link-native-eth1"); !gone(s.until(s.pins, gone)) {
		t.Errorf("eth1 has a program:\n%s", s.outside(s.pins))
	}
	s.stop(next)
	s.detach("--pin", s.pins)
	both("after detach", false, false)
	if out := s.until(s.pins, lacks("program")); !lacks("program")(out) {
		t.Errorf("after detach:\n%s", out)
	}
	// AF_PACKET: a daemon that was killed leaves its tables.
	kill := func(more ...string) {
		t.Helper()
		c := s.start(append([]string{"--plane", "afpacket", "--rules", rules}, more...)...)
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	kill("--interface", "eth0,eth1")
	both("after AF_PACKET on both", true, true)
	slow := s.start("--interface", "eth0", "--plane", "afpacket", "--rules", rules)
	both("after AF_PACKET on eth0", true, false)
	s.stop(slow)
	both("after its end", false, false)
	kill("--interface", "eth0,eth1")
	s.detach()
	both("after detach", false, false)
	if out, code := s.ulvs("", "ulvs", "detach"); code != 0 || out != "nothing was left\n" {
		t.Errorf("detach of nothing: exit %d: %s", code, out)
	}
	// A running daemon's is not taken away.
	runs := s.start("--interface", "eth0", "--plane", "afpacket", "--rules", rules)
	if out, code := s.ulvs("", "ulvs", "detach", "--control", "./other.sock", "--interface", "eth0"); code != 1 || !strings.Contains(out, "a daemon that runs has it") {
		t.Errorf("detach beside a daemon: exit %d: %s", code, out)
	}
	both("beside a daemon that runs", true, false)
	s.stop(runs)
	// Another daemon's is named, and left alone.
	kill("--interface", "eth1")
	other := s.director.Command(context.Background(), program(t), "run", "--control", filepath.Join(s.dir, "other.sock"),
		"--interface", "eth0", "--plane", "afpacket", "--connections", "10000")
	log := new(said)
	other.Stderr = log
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	log.await(t, "ulvs detach --interface eth1")
	log.await(t, "msg=ready")
	both("beside another daemon", false, true)
	s.stop(other)
	s.detach("--interface", "eth1")
	both("after what the log said", false, false)
}

func (s *site) detach(more ...string) {
	s.t.Helper()
	if out, code := s.ulvs("", append([]string{"ulvs", "detach"}, more...)...); code != 0 || out != "" {
		s.t.Errorf("detach %v: exit %d: %s", more, code, out)
	}
}
