package main

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// uploads are a client, a director and a server, between which frames may be of some size.
type uploads struct {
	*site
	vip    netip.Addr
	real   netip.Addr
	daemon *lab.Cmd
	read   atomic.Int64 // bytes that came to the server
}

const uploadPort = 81

// The same hosts by IPv6.
const (
	uploadVIP6    = "fd00:10::101"
	uploadServer6 = "fd00:10::200"
)

// newUploads makes them, of one family. What comes to the server it reads.
func newUploads(t *testing.T, six bool, size int) *uploads {
	t.Helper()
	s, _ := newLoadSite(t)
	u := &uploads{site: s, vip: netip.MustParseAddr(loadVIP), real: netip.MustParseAddr("192.168.10.200")}
	if six {
		u.vip, u.real = netip.MustParseAddr(uploadVIP6), netip.MustParseAddr(uploadServer6)
		for _, c := range []struct {
			h     *lab.Host
			addr  string
			knows string
			mac   net.HardwareAddr
		}{
			{s.client, "fd00:10::1/64", uploadVIP6, s.director.MAC()},
			{s.director, "fd00:10::100/64", uploadServer6, s.server.MAC()},
			{s.server, uploadServer6 + "/64", "fd00:10::1", s.client.MAC()},
		} {
			u.in(c.h, "ip", "addr", "add", c.addr, "dev", "eth0", "nodad")
			u.in(c.h, "ip", "neigh", "add", c.knows, "dev", "eth0", "lladdr", c.mac.String())
		}
		u.in(s.server, "ip", "addr", "add", uploadVIP6+"/128", "dev", "lo", "nodad")
		// Forwarding would have it go to the server directly.
		u.in(s.client, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_redirects=0", "net.ipv6.conf.all.accept_redirects=0")
	}
	u.resize(size)
	serveAt(t, s.server, "tcp", netip.AddrPortFrom(u.vip, uploadPort).String(), func(c net.Conn) {
		onProcessor(runtime.NumCPU() - 1)
		n, _ := io.Copy(io.Discard, c)
		u.read.Add(n)
	})
	return u
}

// resize has all interfaces send and merge frames of up to a size.
func (u *uploads) resize(size int) {
	u.t.Helper()
	all := func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name == "lo" {
				continue
			}
			for _, set := range []func(netlink.Link, int) error{netlink.LinkSetGSOMaxSize, netlink.LinkSetGROMaxSize,
				netlink.LinkSetGSOIPv4MaxSize, netlink.LinkSetGROIPv4MaxSize} {
				if failed := set(l, size); failed != nil {
					err = fmt.Errorf("%s: %w", l.Attrs().Name, failed)
				}
			}
		}
		return err
	}
	for _, do := range []func(func() error) error{u.client.Do, u.director.Do, u.server.Do, u.lab.Do} {
		if err := do(all); err != nil {
			u.t.Fatal(err)
		}
	}
}

// steer has each interface receive on one processor: the server on another one than where it sends from.
func (u *uploads) steer() {
	for host, mask := range map[*lab.Host]int{u.client: 1, u.director: 1, u.server: 2} {
		// Of a namespace's interfaces only a sysfs knows that was mounted in it.
		u.in(host, "unshare", "-m", "sh", "-c",
			fmt.Sprintf("mount -t sysfs s /sys && echo %d >/sys/class/net/eth0/queues/rx-0/rps_cpus", mask))
	}
}

// in runs a command on a host.
func (u *uploads) in(h *lab.Host, words ...string) {
	u.t.Helper()
	if out, err := h.Command(u.t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
		u.t.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// onProcessor has the goroutine run on a processor, until it ends.
func onProcessor(cpu int) {
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(cpu)
	_ = unix.SchedSetaffinity(0, &one)
}

// forwarded calls f while the kernel forwards.
func (u *uploads) forwarded(f func()) {
	on, off := []string{"net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0",
		"net.ipv4.conf.eth0.send_redirects=0"}, "net.ipv4.ip_forward=0"
	if u.vip.Is6() {
		on, off = []string{"net.ipv6.conf.all.forwarding=1"}, "net.ipv6.conf.all.forwarding=0"
		// To the kernel each segment has the jumbo payload option too (net/core/gso.c, skb_gso_network_seglen).
		u.in(u.director, "ip", "link", "set", "eth0", "mtu", "1508")
		defer u.in(u.director, "ip", "link", "set", "eth0", "mtu", "1500")
	}
	route := netip.PrefixFrom(u.vip, u.vip.BitLen()).String()
	u.in(u.director, append([]string{"sysctl", "-qw"}, on...)...)
	u.in(u.director, "ip", "route", "add", route, "via", u.real.String())
	f()
	u.in(u.director, "ip", "route", "del", route)
	u.in(u.director, "sysctl", "-qw", off)
}

// served calls f while a daemon forwards by a plane, and returns how it has the interface.
func (u *uploads) served(plane string, f func()) (how string) {
	u.t.Helper()
	u.daemon = u.start("--interface", "eth0", "--plane", plane, "--pin", "none", "--connections", "40000")
	at := netip.AddrPortFrom(u.vip, uploadPort)
	u.commands(fmt.Sprintf("ipvsadm -A -t %v -s rr\nipvsadm -a -t %v -r %v -g", at, at, u.real))
	out, _ := u.ulvs("", "ulvs", "status")
	for line := range strings.Lines(out) {
		if rest, is := strings.CutPrefix(line, "eth0 "); is {
			how = strings.TrimSpace(rest)
		}
	}
	f()
	u.site.stop(u.daemon)
	return how
}

// dial opens a connection to the service.
func (u *uploads) dial() (c net.Conn) {
	u.t.Helper()
	err := u.client.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(u.vip, uploadPort).String(), patience)
		return err
	})
	if err != nil {
		u.t.Fatal(err)
	}
	return c
}

// await waits until so many bytes have come to the server, by connections that have ended.
func (u *uploads) await(bytes int64) {
	u.t.Helper()
	for began := time.Now(); u.read.Load() != bytes; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			u.t.Fatalf("%d of %d bytes came to the server", u.read.Load(), bytes)
		}
	}
}

// upload has so many connections send for some time, and returns the Gbit/s and what befell them.
func (u *uploads) upload(flows int, lasts time.Duration) (rate float64, _ befell) {
	u.t.Helper()
	before := u.befell()
	var all sync.WaitGroup
	var sent atomic.Int64
	block := make([]byte, 256<<10)
	var open []net.Conn
	for range flows {
		open = append(open, u.dial())
	}
	end := time.Now().Add(lasts)
	for _, c := range open {
		all.Go(func() {
			onProcessor(0)
			defer c.Close()
			_ = c.(*net.TCPConn).SetLinger(0) // nothing more is sent in the next turn
			_ = c.SetDeadline(end)
			for {
				n, err := c.Write(block)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return float64(sent.Load()) * 8 / lasts.Seconds() / 1e9, u.befell().less(before)
}

// befell is what TCP at both ends says of its segments, and what interfaces have dropped.
type befell map[string]int

// overtaken are the names of what says that segments were overtaken.
var overtaken = []string{"TCPOFOQueue", "TCPSACKReorder", "TCPTSReorder"}

// wrong is how often something befell that may not.
func (b befell) wrong() (n int) {
	for _, name := range append([]string{"dropped"}, overtaken...) {
		n += b[name]
	}
	return n
}

func (b befell) less(was befell) befell {
	for name := range b {
		b[name] -= was[name]
	}
	return b
}

func (u *uploads) befell() befell {
	u.t.Helper()
	b := befell{}
	for _, h := range []*lab.Host{u.client, u.server} {
		for _, file := range []string{"netstat", "snmp"} {
			var text []byte
			err := h.Do(func() (err error) {
				text, err = os.ReadFile("/proc/thread-self/net/" + file)
				return err
			})
			if err != nil {
				u.t.Fatal(err)
			}
			lines := strings.Split(string(text), "\n")
			for i := 0; i+1 < len(lines); i += 2 {
				names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
				for at, name := range names {
					if name == "RetransSegs" || slices.Contains(overtaken, name) {
						n, _ := strconv.Atoi(values[at])
						b[name] += n
					}
				}
			}
		}
	}
	for _, do := range []func(func() error) error{u.client.Do, u.director.Do, u.server.Do, u.lab.Do} {
		err := do(func() error {
			links, err := netlink.LinkList()
			for _, l := range links {
				if s := l.Attrs().Statistics; s != nil {
					b["dropped"] += int(s.RxDropped + s.TxDropped)
				}
			}
			return err
		})
		if err != nil {
			u.t.Fatal(err)
		}
	}
	return b
}

// largest notes the size of the largest frame that comes to the server, until end is called.
func (u *uploads) largest() (end func() int) {
	u.t.Helper()
	fd := -1
	if err := u.server.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(bits.ReverseBytes16(unix.ETH_P_ALL)))
		return err
	}); err != nil {
		u.t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
		u.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(u.t.Context())
	most := make(chan int)
	go func() {
		defer unix.Close(fd)
		n, buf := 0, make([]byte, 64)
		for ctx.Err() == nil {
			if size, _, err := unix.Recvfrom(fd, buf, unix.MSG_TRUNC); err == nil {
				n = max(n, size)
			}
		}
		most <- n
	}()
	return func() int {
		stop()
		return <-most
	}
}
