package neigh

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netns"
)

// TestMain gives the tests a user namespace of their own when they are not
// run by root, so that they may make network namespaces.
func TestMain(m *testing.M) {
	// The tests wait for the kernel's timers, all at once; the command line comes after.
	_ = flag.Set("test.parallel", "16")
	if os.Geteuid() == 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			os.Stderr.WriteString("cannot make a user namespace (" + err.Error() + "): run these tests as root\n")
		}
		os.Exit(1)
	}
}

// lab is two hosts on one link: the director, on whose interface d0 the tests
// look, and a server with s0.
type lab struct {
	t                *testing.T
	director, server netns.NsHandle
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, director: newNamespace(t), server: newNamespace(t)}
	l.in(l.director, func() {
		// Of different indexes: the kernel's linkwatch takes up to a second
		// over a link whose peer has its own (linkwatch_urgent_event).
		l.ip("link add d0 type veth peer name s0 index 100")
		cmd := exec.Command("ip", "link", "set", "s0", "netns", "/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(dup(t, int(l.server))), "netns")}
		run(t, cmd)
		_ = cmd.ExtraFiles[0].Close()
		l.ip("link set lo up")
		l.ip("addr add 10.9.0.1/24 dev d0")
		l.ip("-6 addr add fd09::1/64 dev d0 nodad")
		l.ip("link set d0 up")
	})
	l.in(l.server, func() {
		l.ip("link set lo up")
		l.ip("addr add 10.9.0.2/24 dev s0")
		l.ip("-6 addr add fd09::2/64 dev s0 nodad")
		l.ip("link set s0 address 02:00:00:00:00:02 up")
	})
	return l
}

func newNamespace(t *testing.T) netns.NsHandle {
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

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := syscall.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// in runs f on a thread in ns; f may fail the test.
func (l *lab) in(ns netns.NsHandle, f func()) {
	l.t.Helper()
	done := make(chan bool)
	go func() {
		ok := false
		defer func() { done <- ok }()
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			l.t.Error(err)
			return
		}
		f()
		ok = true
	}()
	if !<-done {
		l.t.FailNow()
	}
}

func (l *lab) ip(args string) {
	l.t.Helper()
	run(l.t, exec.Command("ip", strings.Fields(args)...))
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", cmd.Args, err, out)
		runtime.Goexit()
	}
}

// sysctl writes a setting of the namespace that the calling thread is in.
func (l *lab) sysctl(name, value string) {
	l.t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
		l.t.Error(err)
		runtime.Goexit()
	}
}

// start makes a resolver in the director and runs it until the test ends.
func (l *lab) start(opt Options) *Resolver {
	l.t.Helper()
	r := l.open(opt)
	runUntilEnd(l.t, r)
	return r
}

// open makes a resolver in the director, which does not run.
func (l *lab) open(opt Options) (r *Resolver) {
	l.t.Helper()
	l.in(l.director, func() {
		var err error
		if r, err = New(opt); err != nil {
			l.t.Error(err)
			runtime.Goexit()
		}
	})
	return r
}

// testPatience is how long a test waits for what is due: so long that it is not the machine's
// fault if it does not come.
const testPatience = time.Minute

// await waits until ok is true of the hop.
func await(t *testing.T, h *dataplane.NextHop, what string, ok func(*dataplane.Neighbor) bool) {
	t.Helper()
	for begin := time.Now(); !ok(h.Neighbor()); time.Sleep(time.Millisecond) {
		if time.Since(begin) > testPatience {
			t.Fatalf("%v: not %s after %v: %+v", h.Addr(), what, testPatience, *h.Neighbor())
		}
	}
}

// resolve waits as await does, while packets come: the kernel gives up after three requests,
// which a busy machine may leave unanswered, and asks again for the next packet.
func resolve(t *testing.T, h *dataplane.NextHop, ok func(*dataplane.Neighbor) bool) {
	t.Helper()
	await(t, h, "reachable", func(n *dataplane.Neighbor) bool {
		if n.State == dataplane.HopUnreachable {
			h.Park(&dataplane.Frame{Data: []byte{1}, Hop: h}, func(*dataplane.Frame) {})
		}
		return ok(n)
	})
}

func reaches(mac string) func(*dataplane.Neighbor) bool {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	return func(n *dataplane.Neighbor) bool {
		return n.State == dataplane.HopReachable && n.Dst == dataplane.MAC(hw)
	}
}

func is(s dataplane.HopState) func(*dataplane.Neighbor) bool {
	return func(n *dataplane.Neighbor) bool { return n.State == s }
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// routes is a batch for ip(8) that adds n routes.
func routes(n int) *strings.Reader {
	var b strings.Builder
	for i := range n {
		b.WriteString("route add 10.77." + strconv.Itoa(i/250) + "." + strconv.Itoa(i%250) + " via 10.9.0.2\n")
	}
	return strings.NewReader(b.String())
}

func runUntilEnd(t *testing.T, r *Resolver) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
