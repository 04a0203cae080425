package main

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/packet"
)

// has gives the director an address, or takes it away.
func (s *liveSite) has(addr string, yes bool) {
	s.t.Helper()
	a, err := netlink.ParseAddr(addr + "/32")
	s.must(err)
	if yes {
		s.must(s.director.Netlink().AddrAdd(s.link("eth0"), a))
	} else {
		s.must(s.director.Netlink().AddrDel(s.link("eth0"), a))
	}
}

// linkAddr is where a frame goes.
func linkAddr(frame []byte) net.Addr { return &wire.Addr{HardwareAddr: frame[:6]} }

// nextFrame waits for a frame for a while; nil is none.
func nextFrame(t *testing.T, c *wire.Conn, wait time.Duration) (*packet.Packet, []byte) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 2048)
	n, _, err := c.ReadFrom(frame)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	p := new(packet.Packet)
	p.Parse(frame[:n])
	return p, frame[:n]
}

// arpAnswered asks as the client who has the virtual address, and reports whether it is answered in
// time: long, if an answer is due.
func (s *liveSite) arpAnswered(due bool) bool {
	s.t.Helper()
	c := socketOn(s.t, s.client, "eth0")
	frame, _ := packet.Question(netip.MustParseAddr(loadVIP), netip.MustParseAddr("192.168.10.1"), [6]byte(s.client.MAC()))
	wait := 300 * time.Millisecond
	if due {
		wait = patience
	}
	until := time.Now().Add(wait)
	for last := (time.Time{}); time.Now().Before(until); {
		if time.Since(last) > time.Second { // it may be lost, or be asked too early
			_, err := c.WriteTo(frame, linkAddr(frame))
			s.must(err)
			last = time.Now()
		}
		if p, _ := nextFrame(s.t, c, 100*time.Millisecond); p != nil && p.Kind == packet.ARP && p.ARPOp == 2 &&
			p.ARPSender.String() == loadVIP {
			return true
		}
	}
	return false
}

// A director of a pair serves a virtual address while its host has it, from the moment on from which
// it has: nobody is refused by a host that has the address, and has not heard of the service.
// Connections outlive the time without it.
func TestWhileAddress(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.begin("eth0", "--while-address", "auto")
		_, err := s.dial(300 * time.Millisecond)
		var late net.Error
		if !errors.As(err, &late) || !late.Timeout() {
			s.t.Fatalf("without the address: %v", err)
		}
		if s.arpAnswered(false) {
			s.t.Error("ARP is answered without the address")
		}
		s.has(loadVIP, true)
		kept, err := s.dial(patience)
		s.must(err)
		defer kept.Close()
		for range 20 {
			_, err = exchange(kept, patience)
			s.must(err)
			s.has(loadVIP, false)
			s.has(loadVIP, true)
			c, err := s.dial(patience)
			s.must(err)
			_, err = exchange(c, patience)
			s.must(err)
			c.Close()
		}
		if out, _ := s.ulvs("", "ulvs", "status"); !strings.Contains(out, "auto: 1 services are served, 0 stand by") {
			s.t.Error(out)
		}
		s.has(loadVIP, false)
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			out, _ := s.ulvs("", "ulvs", "status")
			if strings.Contains(out, "auto: 0 services are served, 1 stand by") {
				break
			}
			if time.Since(began) > patience {
				s.t.Fatal(out)
			}
		}
	})
}

// However often the address comes and goes, nobody who comes meanwhile is refused.
func TestWhileAddressFlaps(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.begin("eth0", "--while-address", "auto")
		end := make(chan bool)
		var running sync.WaitGroup
		var refused, served atomic.Int64
		for range 8 {
			running.Go(func() {
				for {
					select {
					case <-end:
						return
					default:
					}
					c, err := s.dial(100 * time.Millisecond)
					if err == nil {
						served.Add(1)
						c.Close()
					}
					if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
						refused.Add(1)
					}
				}
			})
		}
		for range 40 {
			s.has(loadVIP, true)
			time.Sleep(40 * time.Millisecond)
			s.has(loadVIP, false)
			time.Sleep(15 * time.Millisecond)
		}
		close(end)
		running.Wait()
		if refused.Load() > 0 || served.Load() == 0 {
			s.t.Errorf("%d were refused, %d served", refused.Load(), served.Load())
		}
	})
}

// An address that goes while no daemon runs is not served by the next one, nor by the program that is
// still there.
func TestWhileAddressKept(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	for _, plane := range []string{"tcx", "xdp"} {
		t.Run(plane, func(t *testing.T) { whileAddressKept(t, plane) })
	}
}

func whileAddressKept(t *testing.T, plane string) {
	t.Parallel()
	fs := t.TempDir() // before the hosts are made, which see what is mounted then
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fs, unix.MNT_DETACH) })
	s := &liveSite{site: newSite(t), plane: plane}
	answers(t, s.server, netip.MustParseAddr(loadVIP))
	s.knows(s.server, "eth0", "192.168.10.1", s.client.MAC())
	s.up("eth0")
	options := []string{"--while-address", "auto", "--pin", filepath.Join(fs, "ulvs")}
	s.has(loadVIP, true)
	daemon := s.begin("eth0", options...)
	c, err := s.dial(patience)
	s.must(err)
	defer c.Close()
	for range 3 {
		_, err = exchange(c, patience)
		s.must(err)
	}
	s.must(daemon.Process.Kill())
	_ = daemon.Wait()
	s.has(loadVIP, false)
	s.begin("eth0", options...)
	before := s.status()["xdp_frames"]
	if _, err := exchange(c, 500*time.Millisecond); err == nil {
		t.Error("a connection goes on without the address")
	}
	if n := s.status()["xdp_frames"] - before; n > 0 {
		t.Errorf("the program has forwarded %d packets without the address", n)
	}
	s.has(loadVIP, true)
	s.must(c.SetDeadline(time.Now().Add(patience)))
	_, err = io.ReadFull(c, make([]byte, 8)) // what was sent in vain is sent again
	s.must(err)
}

// With an address of the host's own, as a VRRP router's, the director answers for all virtual
// addresses, and says so when it begins to.
func TestWhileRouterAddress(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		const router = "192.168.10.9"
		s.begin("eth0", "--while-address", router)
		if s.arpAnswered(false) {
			s.t.Error("ARP is answered without the address")
		}
		heard := socketOn(s.t, s.client, "eth0")
		s.has(router, true)
		for began := time.Now(); ; {
			p, frame := nextFrame(s.t, heard, 100*time.Millisecond)
			if p != nil && p.Kind == packet.ARP && p.ARPSender == p.ARPTarget && p.ARPSender.String() == loadVIP {
				if p.ARPSenderMAC != [6]byte(s.link("eth0").Attrs().HardwareAddr) || [6]byte(frame) != [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} {
					s.t.Errorf("announced as %x", frame)
				}
				break
			}
			if time.Since(began) > patience {
				s.t.Fatalf("nothing is announced\n%s", s.log)
			}
		}
		if !s.arpAnswered(true) {
			s.t.Error("ARP is not answered")
		}
		c, err := s.dial(patience)
		s.must(err)
		defer c.Close()
		s.has(router, false)
		for began := time.Now(); s.arpAnswered(false); {
			if time.Since(began) > patience {
				s.t.Fatal("ARP is answered without the address")
			}
		}
	})
}

// A real server that answers ARP for the virtual address is named, with what to type on it.
func TestServerAnswersARP(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		for _, name := range []string{"net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.eth0.arp_ignore"} {
			s.must(s.server.Sysctl(name, "0"))
		}
		s.begin("eth0")
		for began := time.Now(); !strings.Contains(s.log.String(), "another host answers for a virtual address"); time.Sleep(50 * time.Millisecond) {
			if time.Since(began) > 2*patience { // it is asked once a minute
				s.t.Fatal(s.log)
			}
		}
		for _, want := range []string{"arp_ignore=1", loadVIP, s.server.MAC().String(), "interface=eth0"} {
			if !strings.Contains(s.log.String(), want) {
				s.t.Errorf("the log has no %q:\n%s", want, s.log)
			}
		}
		if out, _ := s.ulvs("", "ulvs", "status"); !strings.Contains(out, "address_conflicts") {
			s.t.Error(out)
		}
	})
}
