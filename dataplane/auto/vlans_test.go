package auto_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/dataplane/auto"
)

var (
	inner = tag{100, netlink.VLAN_PROTOCOL_8021Q}
	outer = tag{200, netlink.VLAN_PROTOCOL_8021AD}
)

// A VLAN trunk is served by the program at the ingress, with one tag and with two, in the frame and beside
// it; whether the director's address is on the trunk, or on a VLAN device, or that device is what was given.
func TestTrunk(t *testing.T) {
	for wire, tags := range map[string][]tag{"no tag": nil, "one tag": {inner}, "QinQ": {outer, inner}} {
		for at, of := range map[string]shape{"trunk": {without: true}, "trunk under a device": {}, "device": {upper: true}} {
			for where, inside := range map[string]bool{"beside": false, "inside": true} {
				if of.tags, of.inside, of.plane = tags, inside, auto.TCX; tags == nil && !of.without {
					continue // it is the same
				}
				t.Run(fmt.Sprint(wire, "/", at, "/", where), func(t *testing.T) {
					s := newSite(t, of)
					for _, six := range []bool{false, true} {
						s.ready(six)
						s.served(six)
						s.left(six)
					}
				})
			}
		}
	}
}

// ready opens connections until the program knows both real servers.
func (s *site) ready(six bool) {
	s.Helper()
	for _, port := range []uint16{portFast, portDatagrams} {
		for began, row := time.Now(), 0; row < 2; {
			grown := s.counts(func() {
				c := s.dial(six, port)
				s.ask(c, 1)
				c.Close()
			})
			if row++; grown["opened_by_plane"] != 1 {
				row = 0
			}
			if time.Since(began) > patience {
				s.Fatalf("the program opens no connections: %v", grown)
			}
		}
	}
}

// served has the program open and forward connections, of which Go sees nothing.
func (s *site) served(six bool) {
	s.Helper()
	const connections, rounds = 10, 4
	of := map[byte]int{}
	grown := s.counts(func() {
		for range connections {
			for _, port := range []uint16{portFast, portDatagrams} {
				c := s.dial(six, port)
				for range rounds {
					of[s.ask(c, 1000)]++
				}
				if port == portFast {
					s.ask(c, 200_000)
				}
				c.Close()
			}
		}
	})
	if of[0] != of[1] {
		s.Errorf("the real servers have served %v requests", of)
	}
	if n := grown["opened_by_plane"]; n != 2*connections {
		s.Errorf("the program opened %d connections of %d", n, 2*connections)
	}
	// SYN, ACK, data, and the end
	if least := connections * (3 + rounds + 2 + rounds); grown["xdp_frames"] < least {
		s.Errorf("the program forwarded %d frames, not %d", grown["xdp_frames"], least)
	}
	if grown["rx_frames"] != 0 {
		s.Errorf("Go got %d frames: %v", grown["rx_frames"], grown)
	}
}

// left has Go get what is its own, and no more: the first packets of what it decides about, fragments and ICMP
// errors.
func (s *site) left(six bool) {
	s.Helper()
	const connections = 5
	grown := s.counts(func() {
		for range connections {
			c := s.dial(six, portSlow)
			s.ask(c, 1000)
			s.ask(c, 1000)
			c.Close()
		}
	})
	if grown["rx_frames"] != connections || grown["opened_in_go_service"] != connections {
		s.Errorf("of %d connections that Go opens it got %d frames: %v", connections, grown["rx_frames"], grown)
	}
	grown = s.counts(func() {
		c := s.dial(six, portDatagrams)
		s.ask(c, 3000)
		c.Close()
	})
	if grown["rx_frames"] != 3 || grown["opened_in_go_fragment"] != 1 {
		s.Errorf("of three fragments Go got %d: %v", grown["rx_frames"], grown)
	}
	before, err := s.d.Counters()
	s.must(err)
	grown = s.counts(func() {
		c := s.dial(six, portDatagrams)
		_, err := c.Write([]byte(late))
		s.must(err)
		s.must(c.Close())
		s.closed <- struct{}{}
		s.until("the client's error comes", func() bool {
			now, err := s.d.Counters()
			return err == nil && now["icmp_errors"] > before["icmp_errors"]
		})
	})
	if grown["rx_frames"] != 1 || grown["icmp_errors"] != 1 {
		s.Errorf("of a datagram and an ICMP error Go got %d: %v", grown["rx_frames"], grown)
	}
}

// A bond is served, without VLANs and with one, and what is sent by it goes on by the slave that works: no
// datagram is lost when the kernel has seen that the other one does not.
func TestBond(t *testing.T) {
	for wire, tags := range map[string][]tag{"plain": nil, "one tag": {inner}} {
		for name, of := range map[string]shape{"tcx": {plane: auto.TCX}, "auto": {plane: auto.Auto},
			"auto, tags left": {plane: auto.Auto, driver: true, inside: true}} {
			of.bond, of.tags = true, tags
			t.Run(wire+"/"+name, func(t *testing.T) {
				s := newSite(t, of)
				const chosen = "tcx (it is a bond, whose AF_XDP sockets get nothing), the only program there"
				if of.plane == auto.Auto && s.facts["bond0"] != chosen {
					s.Errorf("auto has chosen %q", s.facts["bond0"])
				}
				bonded(s)
			})
		}
	}
}

func bonded(s *site) {
	var list []net.Conn
	for _, six := range []bool{false, true} {
		s.ready(six)
		s.served(six)
		s.left(six)
		for range 5 {
			list = append(list, s.dial(six, portFast), s.dial(six, portDatagrams))
		}
	}
	of := make(map[net.Conn]byte)
	for _, c := range list {
		of[c] = s.ask(c, 1000)
	}
	for range 2 { // and back
		was := s.active()
		s.port(was, false)
		s.until("the bond leaves "+was, func() bool { return s.active() != was && s.active() != "" })
		grown := s.counts(func() {
			for range 5 {
				for _, c := range list {
					if now := s.ask(c, 1000); now != of[c] {
						s.Errorf("a connection is of real server %d, and was of %d", now, of[c])
					}
				}
			}
		})
		if grown["rx_frames"] != 0 || grown["xdp_frames"] < 5*len(list) {
			s.Errorf("by %s: %v", s.active(), grown)
		}
		s.port(was, true)
	}
}

// active returns the name of the bond's slave that works.
func (s *site) active() string {
	s.Helper()
	l, err := s.director.Netlink().LinkByName("bond0")
	s.must(err)
	slave, err := s.director.Netlink().LinkByIndex(l.(*netlink.Bond).ActiveSlave)
	if err != nil {
		return ""
	}
	return slave.Attrs().Name
}

// port sets the other end of a slave's cable up or down.
func (s *site) port(slave string, up bool) {
	s.Helper()
	name := map[string]string{"eth0": "director", "eth1": "cable1"}[slave]
	s.must(s.lab.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	}))
}
