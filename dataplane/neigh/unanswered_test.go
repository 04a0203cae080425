package neigh

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// answerARP has the server answer by ARP as another program: those requests that ok, by their
// sender's address. The host itself answers none.
func (l *lab) answerARP(ok func(sender netip.Addr) bool) {
	var fd, index int
	l.in(l.server, func() {
		l.ip("link set s0 arp off")
		s0, err := net.InterfaceByName("s0")
		if err == nil {
			index = s0.Index
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(bigEndian(unix.ETH_P_ARP)))
		}
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
		}
		if err != nil {
			l.t.Error(err)
			runtime.Goexit()
		}
	})
	var end atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 100); !end.Load(); {
			n, err := unix.Read(fd, buf)
			if err != nil || n < arpLen || binary.BigEndian.Uint16(buf[6:]) != arpRequest || !ok(netip.AddrFrom4([4]byte(buf[14:]))) {
				continue
			}
			b := slices.Clone(buf[:arpLen])
			b[7] = arpReply
			copy(b[8:], []byte{2, 0, 0, 0, 0, 2})
			copy(b[14:18], buf[24:28])
			copy(b[18:28], buf[8:18])
			to := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ARP), Ifindex: index, Halen: 6}
			copy(to.Addr[:], buf[8:14])
			_ = unix.Sendto(fd, b, 0, to)
		}
	}()
	l.t.Cleanup(func() {
		end.Store(true)
		<-done
		_ = unix.Close(fd)
	})
}

// A server whose own table is full answers no question that gives a sender, as the kernel's do:
// it is not given up.
func TestServerWithoutRoom(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.answerARP(func(sender netip.Addr) bool { return sender.IsUnspecified() })
	r := l.start(Options{})
	h := r.NextHop(addr("10.9.0.2"))
	await(t, h, "reachable", func(n *dataplane.Neighbor) bool {
		if n.State == dataplane.HopUnreachable {
			t.Fatalf("given up")
		}
		return reaches(mac1)(n)
	})
	begin := time.Now()
	for time.Since(begin) < 5*time.Second {
		if n := h.Neighbor(); !reaches(mac1)(n) {
			t.Fatalf("after %v: %+v", time.Since(begin), *n)
		}
		time.Sleep(time.Millisecond)
	}
}

// Where the kernel has been asking for a while when a resolver begins, that it gives up says
// nothing yet.
func TestBeginsLate(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var asked atomic.Int32 // by the kernel, which does so three times
	l.answerARP(func(sender netip.Addr) bool { return !sender.IsUnspecified() && asked.Add(1) > 3 })
	var k key
	look := l.open(Options{})
	defer look.Close()
	l.in(l.director, func() {
		d0, err := net.InterfaceByName("d0")
		if err != nil {
			t.Error(err)
			return
		}
		k = key{d0.Index, addr("10.9.0.2")}
		c, err := net.Dial("udp4", "10.9.0.2:9")
		if err == nil {
			_, err = c.Write([]byte{1})
			_ = c.Close()
		}
		if err != nil {
			t.Error(err)
		}
	})
	if s := look.inKernel(k); s.nud != netlink.NUD_INCOMPLETE {
		t.Fatalf("the kernel's state is %#x", s.nud)
	}
	eventually(t, func() bool { return asked.Load() > 1 })
	r := l.start(Options{})
	h := r.NextHop(k.addr)
	await(t, h, "reachable", func(n *dataplane.Neighbor) bool {
		if n.State == dataplane.HopUnreachable {
			t.Fatalf("given up")
		}
		return reaches(mac1)(n)
	})
}

// Who does not answer is given up, however much the host sends to it meanwhile, and is seldom
// asked without a sender from then on: it may be one that comes back, and takes that for
// another's claim to its address (RFC 5227, 2.1.1).
func TestDeadIsLeftAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var given, anonymous atomic.Int32
	l.answerARP(func(sender netip.Addr) bool {
		if sender.IsUnspecified() {
			anonymous.Add(1)
		} else {
			given.Add(1)
		}
		return false
	})
	r := l.start(Options{HoldDown: 100 * time.Millisecond})
	h := r.NextHop(addr("10.9.0.2"))
	var c net.Conn
	l.in(l.director, func() {
		var err error
		if c, err = net.Dial("udp4", "10.9.0.2:9"); err != nil {
			t.Error(err)
		}
	})
	defer c.Close()
	giveUp := func() {
		t.Helper()
		lost := h.Lost()
		h.Park(&dataplane.Frame{Data: []byte{1}, Hop: h}, func(*dataplane.Frame) {})
		await(t, h, "given up", func(*dataplane.Neighbor) bool {
			_, _ = c.Write([]byte{1}) // the host's own, all the time
			return h.Lost() > lost
		})
	}
	giveUp()
	first := anonymous.Load()
	giveUp()
	if again := anonymous.Load() - first; again > 1 || given.Load() == 0 {
		t.Errorf("asked %d times without a sender, then %d times; %d times with one", first, anonymous.Load()-first, given.Load())
	}
}
