package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane/tcx"
	"github.com/ulvs/ulvs/internal/lab"
)

// movedSite is a site whose director's eth0 goes to another network namespace with the program at its ingress, and
// back. A real server is behind eth1.
type movedSite struct {
	*pinSite
	elsewhere *lab.Host
	index     int // of eth0
	trapped   atomic.Int64
}

func newMovedSite(t *testing.T) *movedSite {
	t.Helper()
	s := &movedSite{pinSite: newPinSite(t)}
	var err error
	s.elsewhere, err = s.lab.Add(lab.HostConfig{Name: "elsewhere",
		Sysctls: [][2]string{{"-net.ipv6.conf.default.disable_ipv6", "1"}}})
	s.must(err)
	far, err := s.lab.Add(lab.HostConfig{Name: "far"})
	s.must(err)
	nl := s.director.Netlink()
	s.must(nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1", Index: 5001}, PeerName: "eth1",
		PeerNamespace: netlink.NsFd(far.Namespace())}))
	end, err := far.Netlink().LinkByName("eth1")
	s.must(err)
	s.must(far.Netlink().LinkSetUp(end))
	eth1 := s.link("eth1")
	s.must(nl.LinkSetUp(eth1))
	s.must(nl.AddrAdd(eth1, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 20, 100), Mask: net.CIDRMask(24, 32)}}))
	s.watchOn(3, far, "eth1", end.Attrs().HardwareAddr)
	s.know("eth1", net.IPv4(192, 168, 20, 200), end.Attrs().HardwareAddr)
	s.index = s.link("eth0").Attrs().Index
	return s
}

func (s *movedSite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *movedSite) link(name string) netlink.Link {
	s.t.Helper()
	l, err := s.director.Netlink().LinkByName(name)
	s.must(err)
	return l
}

func (s *movedSite) know(name string, ip net.IP, mac net.HardwareAddr) {
	s.t.Helper()
	s.must(s.director.Netlink().NeighSet(&netlink.Neigh{LinkIndex: s.link(name).Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: ip, HardwareAddr: mac}))
}

// serve begins a daemon, with a server beside the client and one behind eth1.
func (s *movedSite) serve() *lab.Cmd {
	s.t.Helper()
	s.know("eth0", net.IPv4(192, 168, 10, 200), s.server.MAC())
	d := s.start("--interface", "eth0", "--plane", "tcx", "--pin", s.pins, "--connections", "40000")
	if out, _ := s.ulvs("", "ipvsadm", "-Sn"); out == "" {
		s.commands(`
			ipvsadm -A -t 192.168.10.101:80 -s rr
			ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g
			ipvsadm -A -t 192.168.10.101:81 -s rr
			ipvsadm -a -t 192.168.10.101:81 -r 192.168.20.200 -g
		`)
	}
	return d
}

// goes has eth0 go elsewhere, and returns its number there.
func (s *movedSite) goes() int {
	s.t.Helper()
	s.must(s.director.Netlink().LinkSetName(s.link("eth0"), "moved0"))
	s.must(s.director.Netlink().LinkSetNsFd(s.link("moved0"), s.elsewhere.Namespace()))
	l, err := s.elsewhere.Netlink().LinkByName("moved0")
	s.must(err)
	s.must(s.elsewhere.Netlink().LinkSetUp(l))
	return l.Attrs().Index
}

// returns has it come back.
func (s *movedSite) returns() {
	s.t.Helper()
	l, err := s.elsewhere.Netlink().LinkByName("moved0")
	s.must(err)
	s.must(s.elsewhere.Netlink().LinkSetNsFd(l, s.director.Namespace()))
	s.must(s.director.Netlink().LinkSetName(s.link("moved0"), "eth0"))
	s.up()
}

func (s *movedSite) up() {
	s.t.Helper()
	s.must(s.director.Netlink().LinkSetUp(s.link("eth0")))
	s.must(s.director.Netlink().AddrReplace(s.link("eth0"), &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 10, 100),
		Mask: net.CIDRMask(24, 32)}}))
	s.know("eth0", net.IPv4(192, 168, 10, 200), s.server.MAC())
}

// programsAt are those at the ingress of an interface.
func programsAt(t *testing.T, h *lab.Host, index int) (ids []ebpf.ProgramID) {
	t.Helper()
	if err := h.Do(func() (err error) {
		ids, err = tcx.Programs(index)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return ids
}

// trap makes an interface elsewhere that has a number, and counts what comes by it or leaves.
func (s *movedSite) trap(index int) {
	s.t.Helper()
	nl, name := s.elsewhere.Netlink(), fmt.Sprint("trap", index)
	s.must(nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}, PeerName: name + "-"}))
	for _, end := range []string{name, name + "-"} {
		l, err := nl.LinkByName(end)
		s.must(err)
		s.must(nl.LinkSetUp(l))
		c := socketOn(s.t, s.elsewhere, end)
		go func() {
			for buf := make([]byte, 2048); ; {
				if _, _, err := c.ReadFrom(buf); err != nil {
					return
				}
				s.trapped.Add(1)
			}
		}()
	}
}

// received is how many packets the host elsewhere got.
func (s *movedSite) received() (n int) {
	s.t.Helper()
	s.must(s.elsewhere.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		fields := strings.Fields(strings.SplitAfterN(string(text), "\nIp: ", 2)[1])
		n, err = strconv.Atoi(fields[2]) // InReceives
		return err
	}))
	return n
}

// cable lays a cable to an interface that has the name, the number and the address which eth0 had.
func (s *movedSite) cable() {
	s.t.Helper()
	var bridge int
	s.must(s.lab.Do(func() (err error) {
		bridge, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}))
	defer unix.Close(bridge)
	s.must(s.director.Netlink().LinkAdd(&netlink.Veth{PeerName: "anew", PeerNamespace: netlink.NsFd(bridge),
		LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: s.index, HardwareAddr: s.director.MAC()}}))
	s.must(s.lab.Do(func() error {
		br0, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		anew, err := netlink.LinkByName("anew")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(anew, br0), netlink.LinkSetUp(anew))
	}))
}

// forwards has a packet of a connection to each server come, and sees it there.
func (s *movedSite) forwards(flow uint32, flags string) {
	s.t.Helper()
	for _, port := range []uint16{80, 81} {
		s.flows++
		s.send(s.frame(flow, port, flags, s.flows))
		s.got(s.flows, 1)
	}
}

// arrives sends a packet until it has come to a server.
func (s *movedSite) arrives(frame []byte) {
	s.t.Helper()
	number := binary.BigEndian.Uint32(frame[frameSize-4:])
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		_, is := s.seen[number]
		s.mu.Unlock()
		if is {
			return
		}
		if time.Since(began) > patience {
			s.t.Fatalf("packet %d does not arrive", number)
		}
		s.send(frame)
	}
}

// A daemon whose interface goes to another network namespace takes its program away there, and has one anew at the
// interface when that is back.
func TestMovedTCX(t *testing.T) {
	t.Parallel()
	s := newMovedSite(t)
	s.serve()
	s.forwards(1, "S")
	for round := range uint32(2) {
		there := s.goes()
		for began := time.Now(); len(programsAt(t, s.elsewhere, there)) > 0; time.Sleep(5 * time.Millisecond) {
			if time.Since(began) > patience {
				t.Fatal("a program has gone along")
			}
		}
		s.returns()
		for began := time.Now(); len(programsAt(t, s.director, s.link("eth0").Attrs().Index)) == 0; time.Sleep(5 * time.Millisecond) {
			if time.Since(began) > patience {
				t.Fatal("no program is there again")
			}
		}
		s.arrives(s.frame(1, 80, "A", 8001+2*round))
		s.arrives(s.frame(1, 81, "A", 8002+2*round))
		s.forwards(s.flows<<8, "S")
	}
	if got := s.fact("eth0"); got != "tcx (it was asked for), the only program there" {
		t.Error(got)
	}
}

// Where no daemon runs the program goes along, and gives nothing to interfaces elsewhere that have the numbers
// of those that it knows. The next daemon has another interface of that name and number, and the program
// elsewhere is gone.
func TestMovedTCXAlone(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"the same number": true, "another number": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newMovedSite(t)
			d := s.serve()
			s.forwards(1, "S")
			s.forwards(1, "A")
			s.must(d.Process.Kill())
			_ = d.Wait()
			s.forwards(1, "PA") // it goes on without
			time.Sleep(2500 * time.Millisecond)
			s.forwards(1, "PA")
			nl := s.elsewhere.Netlink()
			own, err := nl.LinkByName("eth0")
			s.must(err)
			s.must(nl.LinkDel(own))
			s.trap(s.link(fmt.Sprint("ulvs", s.index)).Attrs().Index)
			s.trap(s.link("eth1").Attrs().Index)
			if !same {
				s.must(nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other", Index: s.index}}))
			}
			there := s.goes()
			if (there == s.index) != same {
				t.Fatalf("the number is %d, and was %d", there, s.index)
			}
			if n := len(programsAt(t, s.elsewhere, there)); n != 1 {
				t.Fatalf("%d programs have gone along: the test tests nothing", n)
			}
			before := s.received()
			f := s.frame(2, 80, "S", 7002) // Go's
			binary.BigEndian.PutUint16(f[14+6:], 0x2000)
			for began := time.Now(); s.received() == before; time.Sleep(5 * time.Millisecond) {
				s.send(s.frame(1, 81, "PA", 7001)) // to the server behind eth1
				s.send(summed(f))
				if time.Since(began) > patience {
					t.Fatal("the host elsewhere does not get what is Go's")
				}
			}
			time.Sleep(50 * time.Millisecond)
			if n := s.trapped.Load(); n > 0 {
				t.Errorf("other interfaces got %d frames", n)
			}
			// Another interface of the name and the number.
			s.cable()
			s.up()
			s.serve()
			if n := len(programsAt(t, s.director, s.index)); n != 1 {
				t.Errorf("%d programs are at the new interface", n)
			}
			for began := time.Now(); len(programsAt(t, s.elsewhere, there)) > 0; time.Sleep(5 * time.Millisecond) {
				if time.Since(began) > patience {
					t.Fatal("the program elsewhere stays")
				}
			}
		})
	}
}
