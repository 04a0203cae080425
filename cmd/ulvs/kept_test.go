package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// until waits until what others can see is as it should be, and returns it: the kernel takes a
// program away a moment after the last who had it (kernel/bpf/syscall.c, bpf_link_put).
func (s *site) until(pins string, ok func(string) bool) string {
	s.t.Helper()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if out := s.outside(pins); ok(out) || time.Since(begin) > patience {
			return out
		}
	}
}

// lacks is true of a text with none of these words.
func lacks(words ...string) func(string) bool {
	return func(out string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(out, w) })
	}
}

// outside is all of the director that others can see: programs, nftables, pins, and files
// beside the control socket but for the daemon's own.
func (s *site) outside(pins string) string {
	s.t.Helper()
	var text strings.Builder
	links, err := s.director.Netlink().LinkList()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range links {
		fmt.Fprintf(&text, "interface %s\n", l.Attrs().Name)
		if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached {
			fmt.Fprintf(&text, "%s has program %d\n", l.Attrs().Name, xdp.ProgId)
		}
	}
	err = s.director.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		for _, t := range tables {
			fmt.Fprintf(&text, "table %s\n", t.Name)
		}
		if err != nil {
			return err
		}
		chains, err := c.ListChains()
		for _, ch := range chains {
			rules, _ := c.GetRules(ch.Table, ch)
			fmt.Fprintf(&text, "chain %s in %s, %d rules\n", ch.Name, ch.Table.Name, len(rules))
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, dir := range []string{pins, s.dir} {
		if dir == "" {
			continue
		}
		_ = filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasPrefix(path, dir) {
				fmt.Fprintln(&text, path)
			}
			return nil
		})
	}
	return text.String()
}

// attempt runs a command in the director's namespace until it ends, as it is to be refused.
func (s *site) attempt(words ...string) (string, int) {
	s.t.Helper()
	return s.attemptIn(s.director, words...)
}

func (s *site) attemptIn(h *lab.Host, words ...string) (string, int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := h.Command(ctx, words[0], words[1:]...)
	var out bytes.Buffer
	c.Stdout, c.Stderr, c.Dir = &out, &out, s.dir
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	_ = c.Wait()
	if ctx.Err() != nil {
		s.t.Errorf("%s: it was not refused: %s", strings.Join(words, " "), out.String())
	}
	return out.String(), c.ProcessState.ExitCode()
}

// program is this test's binary, to be started by others.
func program(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// withoutBPF are the words that start a program as root that has no rights for BPF.
var withoutBPF = []string{"setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon", "--inh-caps", "-bpf,-sys_admin,-perfmon"}

// refusal is a start that would throw away what is kept, or end a daemon for nothing.
type refusal struct {
	what  string
	by    []string // words before the program's
	words []string // besides run, --control and --pin
	want  string
}

// refused carries out a refusal, which must say what is kept, why not, and what to do, and
// change nothing.
func (s *pinSite) refused(r refusal) {
	s.t.Helper()
	s.refusedIn(s.director, r)
}

func (s *pinSite) refusedIn(h *lab.Host, r refusal) {
	s.t.Helper()
	before := s.outside(s.pins)
	words := slices.Concat(r.by, []string{program(s.t), "run", "--control", filepath.Join(s.dir, "ulvs.sock"), "--pin", s.pins}, r.words)
	out, code := s.attemptIn(h, words...)
	if code != 1 {
		s.t.Errorf("%s: exit %d: %s", r.what, code, out)
	}
	for _, want := range []string{r.want, "keeps 1 service and 1 connection of an earlier daemon", "; nothing was changed: give the same options again",
		"the same options again (ulvs run", "--connections 40000", "--fresh", "--rules"} {
		if !strings.Contains(out, want) {
			s.t.Errorf("%s: it does not say %q: %s", r.what, want, out)
		}
	}
	if n := strings.Count(out, "\n"); n != 1 {
		s.t.Errorf("%s: %d lines: %s", r.what, n, out)
	}
	if d := cmp.Diff(before, s.outside(s.pins)); d != "" {
		s.t.Errorf("%s: it has changed something (-before +after):\n%s", r.what, d)
	}
}

// establish opens one connection, whose packets are forwarded from then on.
func (s *pinSite) oneConnection() {
	s.t.Helper()
	s.serve()
	s.send(s.frame(1, 80, "S", 1))
	s.got(1, 1)
	s.send(s.frame(1, 80, "A", 2))
	s.got(2, 1)
	for begin := time.Now(); !strings.Contains(s.output("ipvsadm -Lnc"), "ESTABLISHED"); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			s.t.Fatal("the connection is not established")
		}
	}
	time.Sleep(100 * time.Millisecond) // the daemon counts what it keeps at each tick, of 50 ms
}

// Starts that would throw away what an earlier daemon left are refused: other sizes, another
// layout, another network namespace, another plane, no XDP to be had; and the next start
// with the same options goes on with all of it.
func TestKept(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	first := s.run()
	s.oneConnection()
	services := s.output("ipvsadm -Sn")
	_ = first.Process.Kill()
	_ = first.Wait()
	same := []string{"--interface", "eth0", "--plane", *fast, "--connections", "40000"}
	with := func(more ...string) []string { return append(slices.Clone(same), more...) }
	for _, r := range []refusal{
		{"other --connections", nil, with("--connections", "30000"), "another number of connections or templates"},
		{"other --templates", nil, with("--templates", "100"), "another number of connections or templates"},
		{"other --connections, to take over from nobody", nil, with("--connections", "30000", "--takeover"), "another number of connections"},
		{"other --connections, and auto", nil, with("--connections", "30000", "--plane", "auto"), "another number of connections"},
		{"auto, and an interface without XDP", nil, with("--plane", "auto", "--interface", "lo"), "lo is not Ethernet"},
		{"AF_PACKET", nil, with("--plane", "afpacket"), "AF_PACKET keeps nothing"},
		{"auto, without rights for BPF", withoutBPF, with("--plane", "auto"), "may not load BPF programs"},
		{"auto, to take over, without rights for BPF", withoutBPF, with("--plane", "auto", "--takeover"), "may not load BPF programs"},
	} {
		s.refused(r)
	}
	undo := s.relayout()
	s.refused(refusal{"another layout", nil, same, "its layout is"})
	undo()
	s.refusedIn(s.client, refusal{"another network namespace", nil, same, "of another network namespace"})

	second := s.run()
	if out := fmt.Sprint(second.Stderr); !strings.Contains(out, `"adopted connections"=1`) {
		t.Errorf("the next daemon: %s", out)
	}
	if got := s.output("ipvsadm -Sn"); got != services {
		t.Errorf("the next daemon has\n%snot\n%s", got, services)
	}
	s.send(s.frame(1, 80, "PA", 3))
	s.got(3, 1)
	s.stop(second)
	// What was said is true: --fresh is the way, also to another plane.
	third := s.start("--interface", "eth0", "--plane", "afpacket", "--pin", s.pins, "--fresh")
	if out := s.until(s.pins, lacks("program", "link-")); !lacks("program", "link-")(out) {
		t.Errorf("after --fresh --plane afpacket there is\n%s", out)
	}
	s.stop(third)
}

// A daemon that runs is not ended by a --takeover that could not go on with what it has: it
// goes on, and so does everything.
func TestKeptTakeover(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	daemon := s.run()
	s.oneConnection()
	services := s.output("ipvsadm -Sn")
	same := []string{"--interface", "eth0", "--plane", "auto", "--connections", "40000", "--takeover"}
	with := func(more ...string) []string { return append(slices.Clone(same), more...) }
	for _, r := range []refusal{
		{"other --connections", nil, with("--connections", "30000"), "another number of connections or templates"},
		{"an interface without XDP", nil, with("--interface", "lo"), "lo is not Ethernet"},
		{"no rights for BPF", withoutBPF, same, "may not load BPF programs"},
	} {
		s.refused(r)
	}
	rules := filepath.Join(s.dir, "bad.rules")
	if err := os.WriteFile(rules, []byte("-A -t 192.168.10.101:80 -s nosuch\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := s.outside(s.pins)
	for _, words := range [][]string{{"--fresh", "--rules", rules}, {"--fresh", "--marks", rules}, {"--interface", "nosuch0"}} {
		out, code := s.attempt(slices.Concat([]string{program(t), "run", "--control", filepath.Join(s.dir, "ulvs.sock"), "--pin", s.pins}, same, words)...)
		if code != 1 || !strings.Contains(out, "nosuch") {
			t.Errorf("%v: exit %d: %s", words, code, out)
		}
		if words[0] == "--interface" && !strings.Contains(out, "has none of that name, and goes on (ip link lists them)") {
			t.Errorf("%v: %s", words, out)
		}
	}
	if d := cmp.Diff(before, s.outside(s.pins)); d != "" {
		t.Errorf("something has changed (-before +after):\n%s", d)
	}
	if got := s.output("ipvsadm -Sn"); got != services {
		t.Errorf("the daemon has\n%snot\n%s", got, services)
	}
	s.stop(daemon) // it runs, and ends cleanly
	s.detach("--pin", s.pins)
	s.stop(s.refusedBy("--plane", "afpacket"))
}

// refusedBy starts a daemon that keeps nothing, of which none can take over.
func (s *pinSite) refusedBy(words ...string) *lab.Cmd {
	s.t.Helper()
	slow := s.start(append([]string{"--interface", "eth0"}, words...)...)
	sock := filepath.Join(s.dir, "ulvs.sock")
	want := "--takeover: another ulvs has interface eth0 and keeps nothing there to go on with: end it, or give other interfaces; " +
		"the daemon at " + sock + " goes on"
	out, code := s.attempt(program(s.t), "run", "--control", sock, "--pin", s.pins, "--interface", "eth0", "--takeover")
	if code != 1 || !strings.Contains(out, want) {
		s.t.Errorf("exit %d: %s, want %s", code, out, want)
	}
	return slow
}

// A file that is given and is not there is no reason to lose what an earlier daemon left.
func TestUncompared(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	first := s.run()
	s.commands("ipvsadm -A -t 192.168.10.101:80 -s rr")
	s.stop(first)
	next := s.run("--rules", filepath.Join(s.dir, "nosuch"))
	next.Stderr.(*said).await(t, `level=WARN msg="what an earlier daemon left counts, and cannot be compared with the file" option=--rules err=`)
	if out := s.output("ipvsadm -Sn"); !strings.Contains(out, "-A -t 192.168.10.101:80") {
		t.Errorf("it has\n%s", out)
	}
}

// What has no services is not worth a refusal: a warning says that it is lost.
func TestKeptEmpty(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	s.stop(s.run())
	next := s.run("--connections", "30000")
	if out := fmt.Sprint(next.Stderr); !strings.Contains(out, `level=WARN msg="what an earlier daemon left is lost`) || !strings.Contains(out, "another number of connections") {
		t.Errorf("the log: %s", out)
	}
	s.stop(next)
	slow := s.start("--interface", "eth0", "--plane", "afpacket", "--pin", s.pins)
	if out := fmt.Sprint(slow.Stderr); !strings.Contains(out, `level=WARN msg="what an earlier daemon left is lost`) || !strings.Contains(out, "AF_PACKET keeps nothing") {
		t.Errorf("the log: %s", out)
	}
}

// A daemon that can keep nothing warns of it, and its status says why: the BPF file system is
// not mounted, hidden as by ip netns exec, or not to be written to.
func TestUnpinned(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, m := range []struct{ what, mount, want string }{
		{"no BPF file system", "mount -t tmpfs none /sys/fs/bpf", "not in a BPF file system"},
		{"ip netns exec", "mount -t sysfs none /sys", `\"ip netns exec\" hides it: nsenter --net=/run/netns/NAME`},
		{"read-only", "mount -t bpf bpf /sys/fs/bpf && mount -o remount,ro /sys/fs/bpf", "cannot be written to"},
	} {
		sock := filepath.Join(s.dir, "ulvs.sock")
		c := s.director.Command(context.Background(), "unshare", "--mount", "sh", "-c", m.mount+` && exec "$0" "$@"`, program(t),
			"run", "--interface", "eth0", "--control", sock, "--connections", "10000")
		log := new(said)
		c.Stderr = log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if c.ProcessState == nil {
				_ = c.Process.Signal(unix.SIGTERM)
				_ = c.Wait()
			}
		})
		log.await(t, "msg=ready")
		if out := log.String(); !strings.Contains(out, `level=WARN msg="nothing outlives this daemon`) || !strings.Contains(out, m.want) {
			t.Errorf("%s: the log: %s", m.what, out)
		}
		want := strings.ReplaceAll(m.want, `\`, "")
		if out, code := s.ulvs("", "ulvs", "status"); code != 0 || !strings.Contains(out, "\npinned                   nothing: ") || !strings.Contains(out, want) {
			t.Errorf("%s: status: %s", m.what, out)
		}
		s.stop(c)
	}
}

// lostLink is an interface more of the director, as eth1: one end of a cable that nobody
// else has.
func (s *site) lostLink() {
	s.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth1"
	if err := s.director.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer1"}); err != nil {
		s.t.Fatal(err)
	}
	for _, name := range []string{"eth1", "peer1"} {
		link, err := s.director.Netlink().LinkByName(name)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := s.director.Netlink().LinkSetUp(link); err != nil {
			s.t.Fatal(err)
		}
	}
}
