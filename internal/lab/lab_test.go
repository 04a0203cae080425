package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

func TestMain(m *testing.M) {
	if code, ran, _ := lab.Unshare(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run()) // where namespaces are forbidden, tests skip and say so
}

func newLab(t *testing.T, c lab.Config) *lab.Lab {
	t.Helper()
	l, err := lab.New(c)
	if errors.Is(err, lab.ErrPrivileges) {
		t.Skipf("%v: run as root, or allow user namespaces", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func addHost(t *testing.T, l *lab.Lab, c lab.HostConfig) *lab.Host {
	t.Helper()
	h, err := l.Add(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// pair is a lab of two hosts, .1 and .2, where .2 also owns 192.0.2.80 on lo,
// to which .1 has a route.
func pair(t *testing.T) (*lab.Lab, *lab.Host, *lab.Host) {
	l := newLab(t, lab.Config{})
	vip := netip.MustParsePrefix("192.0.2.80/32")
	a := addHost(t, l, lab.HostConfig{
		Name: "a", MAC: lab.MAC(0xa),
		Addrs:  []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")},
		Routes: []lab.Route{{Dst: vip, Via: netip.MustParseAddr("10.0.0.2")}},
	})
	b := addHost(t, l, lab.HostConfig{
		Name: "b", MTU: 1400,
		Addrs:     []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
		Loopback:  []netip.Prefix{vip},
		Neighbors: []lab.Neighbor{{Addr: netip.MustParseAddr("10.0.0.9"), MAC: lab.MAC(9)}},
		Sysctls:   [][2]string{{"net.ipv4.conf.all.arp_ignore", "1"}, {"-net.nosuch.thing", "1"}},
	})
	return l, a, b
}

// echo answers one datagram on addr in h.
func echo(t *testing.T, h *lab.Host, addr string) net.Addr {
	t.Helper()
	var conn net.PacketConn
	err := h.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 100)
		if n, from, err := conn.ReadFrom(buf); err == nil {
			_, _ = conn.WriteTo(buf[:n], from)
		}
	}()
	return conn.LocalAddr()
}

func ask(h *lab.Host, addr string) error {
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = net.Dial("udp", addr)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	if got := string(buf[:n]); got != "hello" {
		return fmt.Errorf("answer %q", got)
	}
	return nil
}

func TestHostsTalk(t *testing.T) {
	_, a, b := pair(t)
	for _, addr := range []string{"10.0.0.2:0", "[fd00::2]:0", "192.0.2.80:0"} {
		if err := ask(a, echo(t, b, addr).String()); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestConfigured(t *testing.T) {
	_, a, b := pair(t)
	if got := a.MAC().String(); got != "02:00:00:00:00:0a" {
		t.Errorf("MAC is %s", got)
	}
	link, err := b.Netlink().LinkByIndex(b.Index())
	if err != nil {
		t.Fatal(err)
	}
	if got := link.Attrs().MTU; got != 1400 {
		t.Errorf("MTU is %d", got)
	}
	neighs, err := b.Netlink().NeighList(b.Index(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(neighs), "10.0.0.9") {
		t.Errorf("no permanent neighbour in %v", neighs)
	}
	out, err := b.Command(t.Context(), "cat", "/proc/sys/net/ipv4/conf/all/arp_ignore", "/etc/resolv.conf").CombinedOutput()
	if err != nil || string(out) != "1\n" {
		t.Errorf("arp_ignore and resolv.conf in b: %q, %v", out, err)
	}
}

func TestBadConfig(t *testing.T) {
	l := newLab(t, lab.Config{})
	_, err := l.Add(lab.HostConfig{Name: "x", Sysctls: [][2]string{{"net.nosuch.thing", "1"}}})
	if err == nil || !strings.Contains(err.Error(), "net.nosuch.thing") {
		t.Errorf("missing sysctl: %v", err)
	}
	_, err = l.Add(lab.HostConfig{
		Name:   "y",
		Routes: []lab.Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("192.0.2.1")}},
	})
	if err == nil || !strings.Contains(err.Error(), "10.0.0.0/8") {
		t.Errorf("route via nowhere: %v", err)
	}
}

// TestChildrenDie starts one process that is ended by Close, and one by its
// context.
func TestChildrenDie(t *testing.T) {
	l, a, b := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	one, two := a.Command(t.Context(), "sleep", "60"), b.Command(ctx, "sleep", "60")
	for _, c := range []*lab.Cmd{one, two} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	var exit *exec.ExitError
	if err := two.Wait(); !errors.As(err, &exit) {
		t.Errorf("child of an ended context: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := one.Wait(); !errors.As(err, &exit) {
		t.Errorf("child of a closed lab: %v", err)
	}
	if err := a.Command(t.Context(), "true").Run(); err == nil {
		t.Error("a closed lab runs a command")
	}
}

func TestNamed(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv("ULVS_LAB_UNSHARED") != "" {
		t.Skip("names under /run/netns need root: run the tests as root")
	}
	name := fmt.Sprintf("ulvs-test-%d", os.Getpid())
	l := newLab(t, lab.Config{Name: name})
	addHost(t, l, lab.HostConfig{Name: "h", Addrs: []netip.Prefix{netip.MustParsePrefix("10.7.7.7/24")}})
	out, err := exec.Command("ip", "netns", "exec", name+"-h", "ip", "-o", "addr").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.7.7.7/24") {
		t.Errorf("ip netns exec: %s, %v", out, err)
	}
	if _, err := lab.New(lab.Config{Name: name}); err == nil || !strings.Contains(err.Error(), "ip netns del") {
		t.Errorf("name in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir("/run/netns"); strings.Contains(fmt.Sprint(left), name) {
		t.Errorf("left behind: %v", left)
	}
}

// TestUnprivileged runs TestHostsTalk again as nobody, who gets it by Unshare.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv("ULVS_LAB_UNSHARED") != "" {
		t.Skip("becoming nobody needs root: run the tests as root")
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	// By descriptor, since nobody may not enter the test's directory.
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run=TestHostsTalk$|TestChildrenDie$", "-test.v")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "SKIP") {
		t.Skipf("user namespaces are forbidden here; allow them\n%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestHostsTalk") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
