package afpacket

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/ulvs/ulvs/dataplane"
)

// TestMain gives the tests a user namespace of their own when they are not
// run by root, so that they may make network namespaces.
func TestMain(m *testing.M) {
	if os.Getenv(onMainThread) != "" {
		if err := mainThread(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	if os.Geteuid() == 0 || os.Getenv(unprivileged) != "" {
		os.Exit(m.Run())
	}
	cmd := inUserNamespace(os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			os.Stderr.WriteString("cannot make a user namespace (" + err.Error() + "): run these tests as root\n")
		}
		os.Exit(1)
	}
}

// unprivileged is set in the environment of a test that wants no privileges.
const unprivileged = "AFPACKET_TEST_UNPRIVILEGED"

// inUserNamespace is this test binary in a user namespace of its own.
func inUserNamespace(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// Hosts on one bridge, each with eth0, 10.8.0.N and fd08::N.
const (
	client = iota + 1
	director
	server
	hosts = server
)

const (
	vip4 = "10.8.1.1"
	vip6 = "fd08:1::1"
)

type lab struct {
	t  testing.TB
	ns [hosts + 1]netns.NsHandle // 0 is the bridge's
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t}
	for i := range l.ns {
		l.ns[i] = newNamespace(t)
	}
	for host := 1; host <= hosts; host++ {
		l.in(host, func() {
			l.ip("link set lo up")
			l.must(os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644))
			// Of different indexes: the kernel's linkwatch takes up to a second
			// over a link whose peer has its own (linkwatch_urgent_event).
			l.ip(fmt.Sprintf("link add eth0 type veth peer name p%d index %d", host, 100+host))
			l.move(fmt.Sprintf("p%d", host), 0)
			l.ip("link set eth0 address " + macOf(host).String())
			l.ip(fmt.Sprintf("addr add 10.8.0.%d/24 dev eth0", host))
			l.ip(fmt.Sprintf("addr add fd08::%d/64 dev eth0 nodad", host))
			l.ip("link set eth0 up")
		})
		l.in(0, func() { l.ip(fmt.Sprintf("link set p%d up", host)) })
	}
	// A bridge takes a link that is up at once, but waits up to a second for
	// one that comes up later.
	for host := 0; host <= hosts; host++ {
		l.in(host, func() {
			eventually(t, "the links are up", func() bool {
				links, err := netlink.LinkList()
				l.must(err)
				return !slices.ContainsFunc(links, func(k netlink.Link) bool {
					return k.Type() == "veth" && k.Attrs().OperState != netlink.OperUp
				})
			})
		})
	}
	l.in(0, func() {
		l.ip("link add br0 type bridge mcast_snooping 0")
		l.ip("link set br0 up")
		for host := 1; host <= hosts; host++ {
			l.ip(fmt.Sprintf("link set p%d master br0", host))
		}
	})
	// As every real server of direct routing: no word about the VIP by ARP.
	l.in(server, func() {
		l.must(os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0o644))
		l.must(os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_announce", []byte("2"), 0o644))
	})
	l.in(client, func() {
		l.ip("route add " + vip4 + " via 10.8.0.2")
		l.ip("route add " + vip6 + " via fd08::2")
		eventually(t, "the client's IPv6 is ready", func() bool {
			c, err := net.Dial("udp6", "["+vip6+"]:9")
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	})
	return l
}

// move puts a link of the calling thread's namespace into host's.
func (l *lab) move(link string, host int) {
	fd, err := syscall.Dup(int(l.ns[host]))
	if err != nil {
		l.fail(err)
	}
	f := os.NewFile(uintptr(fd), "netns")
	defer f.Close()
	cmd := exec.Command("ip", "link", "set", link, "netns", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	l.run(cmd)
}

// vipOn has a host accept the virtual addresses.
func (l *lab) vipOn(host int) {
	l.in(host, func() {
		l.ip("addr add " + vip4 + "/32 dev lo")
		l.ip("addr add " + vip6 + "/128 dev lo nodad")
	})
}

func macOf(host int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 8, byte(host)} }

func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		var err error
		ns, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("cannot make a network namespace: %v (run as root, or allow user namespaces)", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// in runs f on a thread in the namespace of host; f may end the test by fail.
func (l *lab) in(host int, f func()) {
	l.t.Helper()
	done := make(chan bool)
	go func() {
		ok := false
		defer func() { done <- ok }()
		runtime.LockOSThread()
		if err := netns.Set(l.ns[host]); err != nil {
			l.fail(err)
		}
		f()
		ok = true
	}()
	if !<-done {
		l.t.FailNow()
	}
}

// fail ends f of in, and with it the test.
func (l *lab) fail(what any) {
	l.t.Helper()
	l.t.Error(what)
	runtime.Goexit()
}

func (l *lab) must(err error) {
	if err != nil {
		l.t.Helper()
		l.fail(err)
	}
}

func (l *lab) ip(args string) { l.run(exec.Command("ip", strings.Fields(args)...)) }

func (l *lab) run(cmd *exec.Cmd) {
	l.t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		l.fail(fmt.Sprintf("%v: %v\n%s", cmd.Args, err, out))
	}
}

// start runs a plane with h on a host's interfaces until the test ends or
// stop is called; stop returns what Run returned.
func (l *lab) start(host int, h dataplane.Handler, opt Options) (p *Plane, stop func() error) {
	l.t.Helper()
	if opt.Interfaces == nil {
		opt.Interfaces = []string{"eth0"}
	}
	l.in(host, func() {
		var err error
		p, err = New(opt)
		l.must(err)
	})
	return p, run(l.t, p, h)
}

// run runs a plane until the test ends or stop is called.
func run(t testing.TB, p *Plane, h dataplane.Handler) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, h) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return stop
}

// link is what a hop to host looks like from the director.
func (l *lab) link(host int) dataplane.Neighbor {
	n := dataplane.Neighbor{State: dataplane.HopReachable, MTU: 1500, Dst: dataplane.MAC(macOf(host)), Src: dataplane.MAC(macOf(director))}
	n.Ifindex = l.ifindex(director, "eth0")
	return n
}

func (l *lab) ifindex(host int, name string) (index int) {
	l.in(host, func() {
		ifi, err := net.InterfaceByName(name)
		l.must(err)
		index = ifi.Index
	})
	return index
}

func (l *lab) hop(host int) *dataplane.NextHop {
	h := dataplane.NewNextHop(netip.Addr{}, nil)
	h.Set(l.link(host))
	return h
}

// toHop is a handler that sends what goes to the virtual addresses to a hop.
type toHop struct {
	hop     *dataplane.NextHop
	mu      sync.Mutex
	seen    int
	largest int
	frames  [][]byte // copies, if keep
	offload []dataplane.Offload
	keep    bool
}

func (h *toHop) Handle(now time.Duration, batch []dataplane.Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range batch {
		f := &batch[i]
		if dst, ok := destination(f.Data); !ok || dst != virtual4 && dst != virtual6 {
			continue
		}
		h.seen++
		h.largest = max(h.largest, len(f.Data))
		if h.keep {
			h.frames = append(h.frames, append([]byte(nil), f.Data...))
			h.offload = append(h.offload, f.Offload)
		}
		if h.hop != nil {
			f.Verdict, f.Hop = dataplane.Transmit, h.hop
		}
	}
}

func (h *toHop) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen
}

var virtual4, virtual6 = netip.MustParseAddr(vip4), netip.MustParseAddr(vip6)

func destination(frame []byte) (netip.Addr, bool) {
	n, etherType := tags(frame)
	ip := macLen + n
	switch {
	case etherType == 0x0800 && len(frame) >= ip+20:
		return netip.AddrFrom4([4]byte(frame[ip+16:])), true
	case etherType == etherTypeIPv6 && len(frame) >= ip+40:
		return netip.AddrFrom16([16]byte(frame[ip+24:])), true
	}
	return netip.Addr{}, false
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
