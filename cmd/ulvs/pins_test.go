package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// What an earlier daemon left is taken over if it fits, and what becomes of it is
// said in a line.
func TestPins(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	services := func() string { return s.output("ipvsadm -Sn") }
	log := func(c *lab.Cmd) string { return fmt.Sprint(c.Stderr) }

	first := s.run()
	s.serve()
	kept := services()
	if out := log(first); strings.Contains(out, "adopted") || strings.Contains(out, "discarded") {
		t.Errorf("the first daemon: %s", out)
	}
	const warning = `level=WARN msg="XDP was asked for where packets may be lost by it" interface=eth0 because="it is a veth pair, whose other end needs `
	if out := log(first); strings.Contains(out, warning) != (*fast == "xdp") {
		t.Errorf("what it says of veth: %s", out)
	}
	if out := log(first); *fast == "tcx" && !strings.Contains(out, "it was asked for") {
		t.Errorf("why there is no program in the driver: %s", out)
	}
	s.stop(first)

	rules := filepath.Join(s.dir, "rules")
	if err := os.WriteFile(rules, []byte("-A -t 192.168.10.101:80 -s lblc -p 300\n-A -t 192.168.10.101:443 -s rr\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := s.run("--rules", rules)
	if got := services(); got != kept {
		t.Errorf("the second daemon has\n%snot\n%s", got, kept)
	}
	if out := log(second); !strings.Contains(out, `"adopted connections"=0`) ||
		!strings.Contains(out, `msg="what an earlier daemon left counts, and differs from the file; --fresh begins with the file"`) ||
		!strings.Contains(out, `"lines of the file alone"="-A -t 192.168.10.101:443 -s rr" "lines that are not in it"="-a -t 192.168.10.101:80 -r 192.168.10.200:80 -g -w 1"`) {
		t.Errorf("the second daemon: %s", out)
	}
	// Nobody may begin beside the programs that stay.
	s.stop(second)
	if out, code := s.ulvs("", "ulvs", "run", "--control", filepath.Join(s.dir, "ulvs.sock"), "--interface", "eth0", "--plane", "afpacket", "--pin", s.pins); code == 0 || !strings.Contains(out, "AF_PACKET keeps nothing") {
		t.Errorf("AF_PACKET beside an earlier daemon's programs: %d, %s", code, out)
	}
	if out, code := s.ulvs("", "ulvs", "run", "--control", filepath.Join(s.dir, "ulvs.sock"), "--interface", "nosuch0", "--plane", *fast, "--pin", s.pins, "--takeover"); code == 0 || !strings.Contains(out, "nosuch0") {
		t.Errorf("a takeover of no interface: %d, %s", code, out)
	}

	third := s.run("--connections", "30000", "--fresh")
	if out := log(third); strings.Contains(out, "is lost") || !strings.Contains(out, `discarded="a fresh start was asked for"`) {
		t.Errorf("the third daemon, of another size: %s", out)
	}
	if got := services(); got != "" {
		t.Errorf("the third daemon has\n%s", got)
	}
	s.serve()
	s.otherLayout("--connections", "30000")
	s.stop(third)
	// Its program goes on forwarding: nobody begins behind it.
	tables, claimed := s.claims()
	if out, code := s.ulvs("", "ulvs", "run", "--control", filepath.Join(s.dir, "other.sock"), "--interface", "eth0", "--pin", s.pins); code == 0 || !strings.Contains(out, "another ulvs daemon's program") {
		t.Errorf("a daemon with another socket: %d, %s", code, out)
	}
	if n, m := s.claims(); *fast == "xdp" && (tables != 1 || claimed == 0) || n != tables || m != claimed {
		t.Errorf("of the other's %d tables with %d rules it has left %d with %d", tables, claimed, n, m)
	}

	s.relayout()
	fourth := s.run("--connections", "30000", "--takeover", "--fresh", "--rules", rules)
	if out := log(fourth); !strings.Contains(out, "a fresh start was asked for") {
		t.Errorf("the fourth daemon, of another layout: %s", out)
	}
	if got := services(); !strings.Contains(got, ":443") || strings.Contains(got, "-a") {
		t.Errorf("the fourth daemon has\n%s", got)
	}
	fifth := s.refresh(fourth, rules)
	if out, code := s.ulvs("", "ulvs", "detach", "--pin", s.pins); code == 0 || !strings.Contains(out, "a daemon runs at ") || !strings.Contains(out, ": end it first") {
		t.Errorf("detach beside a daemon: %d, %s", code, out)
	}
	// One that cannot start leaves nothing of its own, and everything of an earlier one's.
	if err := os.WriteFile(rules, []byte("-A -t 192.168.10.101:80 -s nosuch\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.stop(fifth)
	broken := []string{"ulvs", "run", "--control", filepath.Join(s.dir, "ulvs.sock"), "--interface", "eth0", "--plane", *fast, "--pin", s.pins, "--connections", "30000", "--rules", rules}
	if out, code := s.ulvs("", append(broken, "--fresh")...); code == 0 {
		t.Errorf("a daemon with bad rules: %s", out)
	}
	if left, _ := os.ReadDir(s.pins); len(left) == 0 {
		t.Error("it took away what an earlier daemon had left")
	}
	if out, code := s.ulvs("", "ulvs", "detach", "--pin", s.pins); code != 0 || out != "" {
		t.Errorf("detach: %d, %s", code, out)
	}
	if left, _ := os.ReadDir(s.pins); len(left) > 0 {
		t.Errorf("detach left %v", left)
	}
	for _, more := range [][]string{nil, {"--interface", "eth0"}} {
		if out, code := s.ulvs("", append([]string{"ulvs", "detach", "--pin", s.pins}, more...)...); code != 0 || out != "nothing was left\n" {
			t.Errorf("detach of nothing, %v: %d, %s", more, code, out)
		}
	}
	if out, code := s.ulvs("", "ulvs", "run", "--control", filepath.Join(s.dir, "other.sock"), "--interface", "eth0", "--plane", *fast, "--pin", s.dir); code == 0 || !strings.Contains(out, "not in a BPF file system") {
		t.Errorf("pins in an ordinary folder: %d, %s", code, out)
	}
	if out, code := s.ulvs("", "ulvs", "run", "--control", filepath.Join(s.dir, "other.sock"), "--interface", "eth0", "--plane", "afpacket", "--takeover"); code == 0 || !strings.Contains(out, "--takeover") {
		t.Errorf("a takeover of nothing that is kept: %d, %s", code, out)
	}
}

// refresh has a daemon taken over by one that begins with rules from a pipe, which can
// be read once.
func (s *pinSite) refresh(before *lab.Cmd, rules string) *lab.Cmd {
	s.t.Helper()
	text, err := os.ReadFile(rules)
	if err != nil {
		s.t.Fatal(err)
	}
	pipe := filepath.Join(s.dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		if err := os.WriteFile(pipe, text, 0); err != nil {
			s.t.Error(err)
		}
	}()
	want := s.output("ipvsadm -Sn")
	after := s.run("--connections", "30000", "--takeover", "--fresh", "--rules", pipe)
	if err := before.Wait(); err != nil {
		s.t.Errorf("the daemon that was replaced: %v", err)
	}
	if got := s.output("ipvsadm -Sn"); got != want {
		s.t.Errorf("with rules from a pipe, the daemon has\n%snot\n%s", got, want)
	}
	return after
}

// relayout makes what a daemon keeps be of an earlier layout, and says how to undo that.
func (s *pinSite) relayout() (undo func()) {
	s.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinsOf(s.pins, filepath.Join(s.dir, "ulvs.sock")), "layout"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { m.Close() })
	put := func(more int8) {
		value, err := m.LookupBytes(uint32(0))
		if err != nil {
			s.t.Fatal(err)
		}
		value[0] += byte(more)
		if err := m.Put(uint32(0), value); err != nil {
			s.t.Fatal(err)
		}
	}
	put(-1)
	return func() { put(1) }
}

// otherLayout has what a running daemon keeps be of another layout for a while, as
// after an upgrade: nobody takes over then, as all of it would be lost.
func (s *pinSite) otherLayout(more ...string) {
	s.t.Helper()
	control := filepath.Join(s.dir, "ulvs.sock")
	undo := s.relayout()
	services := s.output("ipvsadm -Sn")
	words := append([]string{"ulvs", "run", "--control", control, "--interface", "eth0", "--plane", *fast, "--pin", s.pins, "--takeover"}, more...)
	if out, code := s.ulvs("", words...); code == 0 || !strings.Contains(out, "would throw away") || !strings.Contains(out, "its layout is") {
		s.t.Errorf("a takeover of another layout: %d, %s", code, out)
	}
	if got := s.output("ipvsadm -Sn"); got != services {
		s.t.Errorf("the daemon that was not replaced has\n%s", got)
	}
	undo()
}

// A takeover for interfaces none of which is there, though they are known, would end a daemon
// that forwards for one that does not.
func TestTakeoverOfNothing(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	s.lostLink()
	d := s.run("--interface", "eth1")
	link, err := s.director.Netlink().LinkByName("eth1")
	if err == nil {
		err = s.director.Netlink().LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Stderr.(*said).await(t, "interface was removed")
	out, code := s.attempt(program(t), "run", "--control", filepath.Join(s.dir, "ulvs.sock"), "--pin", s.pins,
		"--plane", *fast, "--connections", "40000", "--interface", "eth1", "--takeover")
	if code != 1 || !strings.Contains(out, "--takeover: no interface of eth1 is there, and the daemon at ") {
		t.Errorf("exit %d: %s", code, out)
	}
	s.stop(d)
}
