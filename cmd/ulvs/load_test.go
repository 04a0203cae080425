package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

var load = flag.Bool("load", false, "also what needs the machine alone, and judges time")

// needsMachine skips a test that judges time, or changes what all namespaces share.
func needsMachine(t *testing.T) {
	t.Helper()
	if !*load {
		t.Skip("make load has the machine to itself")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// loadPlanes are the ways in which packets are carried.
var loadPlanes = map[string][]string{
	"afpacket":    {"--plane", "afpacket"},
	"tcx":         {"--plane", "tcx"},
	"xdp":         {"--plane", "xdp", "--af-xdp", "off"},
	"xdp, af-xdp": {"--plane", "xdp", "--af-xdp", "on"},
}

const loadVIP = "192.168.10.101"

// newLoadSite is a site whose hosts but the director know their neighbours for good, as
// hosts do that have a table of their own, and whose server echoes.
func newLoadSite(t *testing.T) (s *site, stranger *lab.Host) {
	t.Helper()
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s = &site{t: t, lab: l, dir: t.TempDir()}
	t.Cleanup(func() { l.Close() })
	host := func(n uint32, addr string, knows map[string]uint32) *lab.Host {
		c := lab.HostConfig{Name: fmt.Sprint("h", n), MAC: lab.MAC(n), Addrs: prefixes(addr)}
		for a, mac := range knows {
			c.Neighbors = append(c.Neighbors, lab.Neighbor{Addr: netip.MustParseAddr(a), MAC: lab.MAC(mac)})
		}
		if n == 3 {
			c.Loopback = prefixes(loadVIP + "/32")
			c.Sysctls = [][2]string{{"net.ipv4.conf.all.arp_ignore", "1"}, {"net.ipv4.conf.all.arp_announce", "2"}}
		}
		h, err := l.Add(c)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	s.director = host(1, "192.168.10.100/16", nil)
	s.client = host(2, "192.168.10.1/16", map[string]uint32{loadVIP: 1})
	s.server = host(3, "192.168.10.200/16", map[string]uint32{"192.168.10.1": 2})
	echoAt(t, s.server, "tcp4", ":80")
	return s, host(4, "192.168.10.4/16", nil)
}

func (s *site) dial(timeout time.Duration) (c net.Conn, err error) {
	err = s.client.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", loadVIP+":80", timeout)
		return err
	})
	return c, err
}

// exchange sends eight bytes and waits for them to come back.
func exchange(c net.Conn, timeout time.Duration) (time.Duration, error) {
	began := time.Now()
	if err := c.SetDeadline(began.Add(timeout)); err != nil {
		return 0, err
	}
	var b [8]byte
	if _, err := c.Write(b[:]); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c, b[:])
	return time.Since(began), err
}

// thresholds sets the size of the kernel's table of IPv4 neighbours, which is one for all
// namespaces, until the test ends.
func thresholds(t *testing.T, values ...string) {
	t.Helper()
	for i, value := range values {
		path := fmt.Sprintf("/proc/sys/net/ipv4/neigh/default/gc_thresh%d", i+1)
		was, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(value), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.WriteFile(path, was, 0) })
	}
}

// ARP requests from 9,000 invented neighbours a second, for which the kernel's table has
// no room, neither the director's nor the real server's, which is thrown out of the
// director's: established connections and new ones do not notice.
func TestNeighborFlood(t *testing.T) {
	needsMachine(t)
	for name, args := range loadPlanes {
		t.Run(name, func(t *testing.T) { neighborFlood(t, args) })
	}
}

func neighborFlood(t *testing.T, args []string) {
	const (
		flows  = 20
		rate   = 9000
		lasts  = 20 * time.Second
		slow   = 200 * time.Millisecond
		opened = 40 // a second
	)
	thresholds(t, "128", "512", "1024")
	s, stranger := newLoadSite(t)
	daemon := s.start(append([]string{"--interface", "eth0"}, args...)...)
	s.serveLoad()
	type result struct {
		rtt time.Duration
		err error
	}
	established, fresh := make(chan result, 1<<16), make(chan result, 1<<16)
	var running sync.WaitGroup
	var conns []net.Conn
	for range flows {
		c, err := s.dial(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	flood := requests(t, stranger, s.director.MAC())
	end := time.Now().Add(lasts)
	for _, c := range conns {
		running.Go(func() {
			for time.Now().Before(end) {
				rtt, err := exchange(c, 20*time.Second)
				if established <- (result{rtt, err}); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	running.Go(func() {
		for time.Now().Before(end) {
			running.Go(func() {
				began := time.Now()
				c, err := s.dial(5 * time.Second)
				if err == nil {
					_, err = exchange(c, 5*time.Second)
					c.Close()
				}
				fresh <- result{time.Since(began), err}
			})
			time.Sleep(time.Second / opened)
		}
	})
	running.Go(func() { // the table's own choice is slower, and another by each kernel
		server := &netlink.Neigh{LinkIndex: s.director.Index(), IP: net.IPv4(192, 168, 10, 200)}
		for time.Now().Before(end) {
			_ = s.director.Netlink().NeighDel(server) // it may be out already
			time.Sleep(500 * time.Millisecond)
		}
	})
	sent := 0
	for began := time.Now(); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for due := int(time.Since(began).Seconds() * rate); sent < due; sent++ {
			flood(sent)
		}
	}
	running.Wait()
	judge := func(name string, all chan result, limit time.Duration) {
		close(all)
		var rtts []time.Duration
		failed := 0
		for r := range all {
			if r.err != nil {
				failed++
			}
			rtts = append(rtts, r.rtt)
		}
		slices.Sort(rtts)
		t.Logf("%s: %d, %d failed, median %v, longest %v", name, len(rtts), failed, rtts[len(rtts)/2], rtts[len(rtts)-1])
		if failed > 0 || rtts[len(rtts)-1] > limit {
			t.Errorf("%s: %d of %d failed, the longest took %v", name, failed, len(rtts), rtts[len(rtts)-1])
		}
	}
	t.Logf("%d ARP requests; next hops kept %d, asked %d; %v of the daemon's time", sent, s.status()["next_hops_kept"],
		s.status()["next_hops_asked"], used(t, daemon.Process.Pid))
	judge("round trips of established connections", established, slow)
	judge("new connections", fresh, 900*time.Millisecond) // no SYN came twice
}

// serveLoad adds a service with the server.
func (s *site) serveLoad() {
	s.t.Helper()
	for _, c := range []string{"ipvsadm -A -t " + loadVIP + ":80 -s rr", "ipvsadm -a -t " + loadVIP + ":80 -r 192.168.10.200 -g"} {
		if out, code := s.ulvs("", strings.Fields(c)...); code != 0 {
			s.t.Fatalf("%s: %s", c, out)
		}
	}
}

// requests sends ARP requests for the director's address, the n-th from the n-th of
// 50,000 invented neighbours.
func requests(t *testing.T, from *lab.Host, to net.HardwareAddr) func(n int) {
	t.Helper()
	var fd int
	if err := from.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: from.Index()})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	frame := append(slices.Clone(to), 2, 9, 0, 0, 0, 0, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(frame, 2, 9, 0, 0, 0, 0, 192, 168, 0, 0, 0, 0, 0, 0, 0, 0, 192, 168, 10, 100)
	return func(n int) {
		n %= 50000
		for _, at := range []int{10, 26, 30} {
			binary.BigEndian.PutUint16(frame[at:], uint16(n+12<<8))
		}
		if _, err := unix.Write(fd, frame); err != nil {
			t.Error(err)
		}
	}
}

// used is how much processor time a process has used.
func used(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var user, system int
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
