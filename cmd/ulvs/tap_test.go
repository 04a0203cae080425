package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// tap is a tap interface of the director's, whose other end is the test.
type tap struct {
	t   *testing.T
	fd  int
	mac net.HardwareAddr
}

// newTap makes one that is up and has an address, with more flags than a tap interface has.
func newTap(t *testing.T, h *lab.Host, name, addr string, more ...uint16) *tap {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd := -1
	err := h.Do(func() (err error) { // in whose network namespace it will be
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		t.Skip("the kernel has no tun")
	}
	must(err)
	t.Cleanup(func() { unix.Close(fd) })
	request, err := unix.NewIfreq(name)
	must(err)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	for _, flag := range more {
		flags |= flag
	}
	request.SetUint16(flags)
	must(unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	// With less, frames are no memory of which the driver's program may have the whole (tun_can_build_skb).
	must(unix.IoctlSetPointerInt(fd, unix.TUNSETSNDBUF, math.MaxInt32))
	link, err := h.Netlink().LinkByName(name)
	must(err)
	prefix := netip.MustParsePrefix(addr)
	must(h.Netlink().AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 32)}}))
	must(h.Netlink().LinkSetUp(link))
	return &tap{t: t, fd: fd, mac: link.Attrs().HardwareAddr}
}

// send has a frame come in by the interface.
func (p *tap) send(frame []byte) {
	p.t.Helper()
	copy(frame, p.mac)
	if _, err := unix.Write(p.fd, frame); err != nil {
		p.t.Fatal(err)
	}
}

// got returns the numbers of the next n packets to an address of its.
func (p *tap) got(to net.HardwareAddr, n int) (list []uint32) {
	p.t.Helper()
	buf := make([]byte, 4096)
	for began := time.Now(); len(list) < n; {
		size, err := unix.Read(p.fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN) && time.Since(began) < patience:
			time.Sleep(time.Millisecond)
		case err != nil:
			p.t.Fatalf("after %d of %d packets: %v", len(list), n, err)
		case size >= frameSize && bytes.Equal(buf[:6], to):
			// It may have been padded.
			list = append(list, binary.BigEndian.Uint32(buf[frameSize-4:]))
		}
	}
	return list
}

// Auto has the program in the driver of a tap interface, which is fit for it, and at the ingress behind
// it; and of a veth pair's end at the ingress alone. Each sends by the other interface too, and
// by its own, and what either cannot decide reaches the daemon.
func TestNativeBeforeTCX(t *testing.T) {
	s := newPinSite(t)
	p := newTap(t, s.director, "tap0", "192.168.30.1/24")
	behind := lab.MAC(0x3002)
	link, err := s.director.Netlink().LinkByName("tap0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.director.Netlink().NeighAdd(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.IPv4(192, 168, 30, 2), HardwareAddr: behind}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one goes on with what the first has left
		daemon := s.start("--interface", "eth0", "--interface", "tap0", "--plane", "auto", "--pin", s.pins)
		for fact, want := range map[string]string{"tap0": "native, AF_XDP copy on 1 queues; behind it tcx, the only program there",
			"eth0": "tcx (it is a veth pair), the only program there", "plane": "xdp"} {
			if got := s.fact(fact); got != want {
				t.Errorf("%s: %q, not %q", fact, got, want)
			}
		}
		s.crossing(p, behind)
		s.stop(daemon)
	}
	if out, code := s.ulvs("", "ulvs", "detach", "--pin", s.pins, "--control", s.dir+"/ulvs.sock"); code != 0 {
		t.Fatal(out)
	}
	all, err := s.director.Netlink().LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Name, "ulvs") || l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached {
			t.Errorf("detach has left %s: %+v", l.Attrs().Name, l.Attrs().Xdp)
		}
	}
}

// fact returns what status says of something.
func (s *pinSite) fact(name string) string {
	s.t.Helper()
	for line := range strings.Lines(s.output("ulvs status --all")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return strings.Join(f[1:], " ")
		}
	}
	return ""
}

// crossing has connections go from either interface to servers by either one.
func (s *pinSite) crossing(p *tap, behind net.HardwareAddr) {
	s.t.Helper()
	if out, _ := s.ulvs("", "ipvsadm", "-Ln"); !strings.Contains(out, "192.168.30.2") {
		s.commands(`
			ipvsadm -A -t 192.168.10.101:80 -s rr
			ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g
			ipvsadm -A -t 192.168.10.101:81 -s rr
			ipvsadm -a -t 192.168.10.101:81 -r 192.168.30.2 -g
		`)
	}
	const connections, packets = 20, 5
	before := s.status()
	for _, port := range []uint16{80, 81} {
		for _, send := range []func([]byte){s.send, p.send} {
			s.flows++
			first := s.flows << 16
			for n := range uint32(connections * packets) {
				flags := "S"
				if n >= connections {
					flags = "A"
				}
				send(s.frame(s.flows<<8+n%connections, port, flags, first+n))
				// The first may wait for the server's MAC address.
				if port == 80 {
					s.got(first+n, 1)
				} else if got := p.got(behind, 1); got[0] != first+n {
					s.t.Errorf("packet %d came where %d was to", got[0], first+n)
				}
			}
		}
	}
	// A first fragment is for the daemon.
	for _, send := range []func([]byte){s.send, p.send} {
		s.flows++
		f := s.frame(s.flows<<8, 80, "S", s.flows<<16)
		f[14+6] |= 0x20
		send(summed(f))
		s.got(s.flows<<16, 1)
	}
	after := s.status()
	if n := after["opened_in_go_fragment"] - before["opened_in_go_fragment"]; n != 2 {
		s.t.Errorf("the daemon opened %d connections by fragments, not 2", n)
	}
	// Some wait for their server's address, and now and then one is for the daemon, that it is awake.
	if n := after["opened_by_plane"] - before["opened_by_plane"]; n < 4*connections*9/10 {
		s.t.Errorf("the programs opened %d of %d connections", n, 4*connections)
	}
	if n := after["xdp_frames"] - before["xdp_frames"]; n < 4*connections*packets*9/10 {
		s.t.Errorf("the programs forwarded %d of %d packets", n, 4*connections*packets)
	}
	// Nor is one that the program in the driver leaves to that at the ingress opened there before.
	if n := after["rx_frames"] - before["rx_frames"]; n > 2+4*connections/10 {
		s.t.Errorf("the daemon got %d frames", n)
	}
	if s.more != 0 {
		s.t.Errorf("%d packets arrived twice", s.more)
	}
}
