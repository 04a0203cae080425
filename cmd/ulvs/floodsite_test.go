package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
	"github.com/ulvs/ulvs/packet"
)

// floodSite is a site with a stranger who sends SYNs from addresses that are nobody's, with
// two real servers, and with a client who has many addresses. The servers look no further
// than the source of what the stranger sends, so that it is the director who is judged.
type floodSite struct {
	*site
	servers  []*lab.Host
	stranger *lab.Host
	flood    *flood
	clients  atomic.Uint32 // addresses of the client that were used
}

const (
	floodVIP     = "192.168.10.101"
	floodSources = "16.0.0.0/4"
	floodClients = "10.2.0.0/15"
)

func newFloodSite(t *testing.T) *floodSite {
	t.Helper()
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := &floodSite{site: &site{t: t, lab: l, dir: t.TempDir()}}
	t.Cleanup(func() { l.Close() })
	addr := func(n int) string { return fmt.Sprintf("192.168.10.%d", n) }
	// The kernel's table of neighbours is one for all namespaces, and others may fill it.
	host := func(n int, strict string, knows ...int) *lab.Host {
		c := lab.HostConfig{Name: fmt.Sprint("h", n), MAC: lab.MAC(uint32(n)), Addrs: prefixes(addr(n) + "/24"),
			Sysctls: [][2]string{{"net.ipv4.conf.all.rp_filter", strict}, {"net.ipv4.conf.default.rp_filter", strict}}}
		for _, k := range knows {
			c.Neighbors = append(c.Neighbors, lab.Neighbor{Addr: netip.MustParseAddr(addr(k)), MAC: lab.MAC(uint32(k))})
		}
		h, err := l.Add(c)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	s.director = host(100, "0", 1, 200, 201)
	s.client = host(1, "0", 100)
	vip := netip.MustParseAddr(floodVIP)
	if err := s.client.SetNeighbor(lab.Neighbor{Addr: vip, MAC: s.director.MAC()}); err != nil {
		t.Fatal(err)
	}
	s.route(s.client, "lo", &netlink.Route{Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		Dst: ipNet(floodClients)})
	for _, n := range []int{200, 201} {
		h := host(n, "1", 1)
		s.route(h, "eth0", &netlink.Route{Dst: ipNet(floodClients), Gw: net.IPv4(192, 168, 10, 1)})
		s.route(h, "", &netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: ipNet(floodSources)})
		answers(t, h, vip)
		s.servers = append(s.servers, h)
	}
	s.stranger = host(4, "0")
	s.flood = newFlood(t, s.stranger, s.director.MAC())
	return s
}

func ipNet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func (s *floodSite) route(h *lab.Host, link string, r *netlink.Route) {
	s.t.Helper()
	if link != "" {
		l, err := h.Netlink().LinkByName(link)
		if err != nil {
			s.t.Fatal(err)
		}
		r.LinkIndex = l.Attrs().Index
	}
	if err := h.Netlink().RouteAdd(r); err != nil {
		s.t.Fatalf("%s: route %v: %v", h.Name(), r, err)
	}
}

// serveFlooded adds the service, with both servers.
func (s *floodSite) serveFlooded(options string) {
	s.t.Helper()
	for _, c := range []string{
		"ipvsadm -A -t " + floodVIP + ":80 -s rr " + options,
		"ipvsadm -a -t " + floodVIP + ":80 -r 192.168.10.200 -g",
		"ipvsadm -a -t " + floodVIP + ":80 -r 192.168.10.201 -g",
	} {
		if out, code := s.ulvs("", strings.Fields(c)...); code != 0 {
			s.t.Fatalf("%s: %s", c, out)
		}
	}
}

// arrived is how many frames the servers have had.
func (s *floodSite) arrived() (n int) {
	s.t.Helper()
	for _, h := range s.servers {
		l, err := h.Netlink().LinkByName("eth0")
		if err != nil {
			s.t.Fatal(err)
		}
		n += int(l.Attrs().Statistics.RxPackets)
	}
	return n
}

// dialNew opens a connection from an address that the client has not used yet.
func (s *floodSite) dialNew(timeout time.Duration) (c net.Conn, err error) {
	return s.dialPort(80, timeout)
}

func (s *floodSite) dialPort(port int, timeout time.Duration) (c net.Conn, err error) {
	n := s.clients.Add(1)
	d := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, byte(2+n>>16&1), byte(n>>8), byte(n))}}
	err = s.client.Do(func() (err error) {
		c, err = d.Dial("tcp4", fmt.Sprint(floodVIP, ":", port))
		return err
	})
	return c, err
}

// flood is a stranger's socket, and his SYNs, each from another of 2^28 addresses.
type flood struct {
	fd    int
	frame []byte
	sent  atomic.Int64
	// most is how many SYNs may be sent. Who waits for an answer lowers it.
	most atomic.Int64
}

func newFlood(t *testing.T, from *lab.Host, to net.HardwareAddr) *flood {
	t.Helper()
	f := new(flood)
	if err := from.Do(func() (err error) {
		if f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(f.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
			unix.Bind(f.fd, &unix.SockaddrLinklayer{Ifindex: from.Index()}))
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(f.fd) })
	f.frame = append(f.frame, to...)
	f.frame = append(append(f.frame, from.MAC()...), 8, 0)
	ip := []byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0}
	vip := netip.MustParseAddr(floodVIP).As4()
	tcp := []byte{0x27, 0x10, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	f.frame = append(append(append(f.frame, ip...), vip[:]...), tcp...)
	f.most.Store(1 << 62)
	return f
}

// syn sends the next SYN. An address does not come again before all others have come, and
// none is near the one before.
func (f *flood) syn() error {
	n := uint32(f.sent.Load())
	ip := f.frame[14:34]
	binary.BigEndian.PutUint32(ip[12:], 0x1000_0000|n*0x9e3779b1&0x0fff_ffff)
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip))
	for {
		switch _, err := unix.Write(f.fd, f.frame); {
		case err == nil:
			f.sent.Add(1)
			return nil
		case err != unix.ENOBUFS && err != unix.EAGAIN && err != unix.EINTR:
			return fmt.Errorf("flood: %w", err)
		}
	}
}

// send sends SYNs at a rate for a time. What it is late with it sends at once, unless it
// is late by more than a tenth of a second.
func (f *flood) send(rate int, lasts time.Duration) (sent int, took time.Duration, err error) {
	began, due, from := time.Now(), 0.0, f.sent.Load()
	for last := began; ; {
		now := time.Now()
		if now.Sub(began) >= lasts {
			return int(f.sent.Load() - from), now.Sub(began), nil
		}
		due = min(due+now.Sub(last).Seconds()*float64(rate), float64(rate)/10)
		last = now
		for ; due >= 1 && f.sent.Load() < f.most.Load(); due-- {
			if err := f.syn(); err != nil {
				return 0, 0, err
			}
			if time.Since(last) > 10*time.Millisecond {
				break
			}
		}
		if due < float64(rate)/1000 || f.sent.Load() >= f.most.Load() {
			time.Sleep(500 * time.Microsecond)
		}
	}
}
