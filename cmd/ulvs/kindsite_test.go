package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// kindSite is a site whose daemon is given one interface of some kind, behind which clients and real servers are.
type kindSite struct {
	*pinSite
	name   string // of the interface
	link   netlink.Link
	write  func(frame []byte) // has one come to the interface
	behind []lab.Neighbor     // the real servers

	given   sync.Mutex
	handed  [][]byte // what programs gave to the daemon by the private interface, and was not looked at
	daemons int      // packets that came to the daemon
}

// overBridge is one with a bridge, of which eth0 is a port.
func overBridge(t *testing.T) *kindSite {
	return overEth(t, func(eth netlink.Link) netlink.Link {
		return &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: lab.MAC(0x4001)}}
	})
}

// overMacvlan is one with a macvlan over eth0.
func overMacvlan(t *testing.T) *kindSite {
	return overEth(t, func(eth netlink.Link) netlink.Link {
		return &netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{
			Name: "mv0", HardwareAddr: lab.MAC(0x4002), ParentIndex: eth.Attrs().Index}}
	})
}

// overEth is one with an interface above the director's eth0, that gets its address.
func overEth(t *testing.T, upper func(eth netlink.Link) netlink.Link) *kindSite {
	t.Helper()
	s := newPinSite(t)
	nl := s.director.Netlink()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	eth, err := nl.LinkByName("eth0")
	must(err)
	over := upper(eth)
	if err := nl.LinkAdd(over); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("the kernel has no %s", over.Type())
	} else {
		must(err)
	}
	if over.Type() == "bridge" {
		must(nl.LinkSetMaster(eth, over))
	}
	address := &net.IPNet{IP: net.IPv4(192, 168, 10, 100), Mask: net.CIDRMask(24, 32)}
	must(nl.AddrDel(eth, &netlink.Addr{IPNet: address}))
	k := &kindSite{pinSite: s, name: over.Attrs().Name}
	k.link, err = nl.LinkByName(k.name)
	must(err)
	must(nl.AddrAdd(k.link, &netlink.Addr{IPNet: address}))
	must(nl.LinkSetUp(k.link))
	k.write = func(frame []byte) {
		copy(frame, k.link.Attrs().HardwareAddr)
		s.send(frame)
	}
	for i, h := range s.servers {
		k.behind = append(k.behind, lab.Neighbor{Addr: netip.AddrFrom4([4]byte{192, 168, 10, byte(200 + i)}), MAC: h.MAC()})
	}
	k.know(k.behind)
	return k
}

// overTap is one with a tap interface, of these flags besides.
func overTap(t *testing.T, flags ...uint16) (*kindSite, *tap) {
	t.Helper()
	s := newPinSite(t)
	p := newTap(t, s.director, "tap0", "192.168.30.1/24", flags...)
	k := &kindSite{pinSite: s, name: "tap0", write: p.send}
	var err error
	if k.link, err = s.director.Netlink().LinkByName(k.name); err != nil {
		t.Fatal(err)
	}
	for i := range s.servers {
		k.behind = append(k.behind, lab.Neighbor{Addr: netip.AddrFrom4([4]byte{192, 168, 30, byte(200 + i)}),
			MAC: lab.MAC(uint32(0x3000 + i))})
	}
	k.know(k.behind)
	return k, p
}

// know has the director know where real servers are: else the first packets to them are the daemon's.
func (k *kindSite) know(list []lab.Neighbor) {
	k.t.Helper()
	for _, n := range list {
		if err := k.director.Netlink().NeighSet(&netlink.Neigh{LinkIndex: k.link.Attrs().Index,
			State: netlink.NUD_PERMANENT, IP: n.Addr.AsSlice(), HardwareAddr: n.MAC}); err != nil {
			k.t.Fatal(err)
		}
	}
}

// each calls f with what comes out of the interface, until the test ends.
func (p *tap) each(f func(frame []byte)) {
	end, ended := make(chan bool), make(chan bool)
	p.t.Cleanup(func() { close(end); <-ended }) // before the descriptor is closed
	go func() {
		defer close(ended)
		buf := make([]byte, 1<<16)
		for {
			select {
			case <-end:
				return
			default:
			}
			n, err := unix.Read(p.fd, buf)
			if err == nil {
				f(bytes.Clone(buf[:n]))
				continue
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 20)
		}
	}()
}

// notes puts packets with a number that are to a real server behind the tap interface among those that arrived.
func (k *kindSite) notes(frame []byte) {
	for i, n := range k.behind {
		if len(frame) >= frameSize && bytes.Equal(frame[:6], n.MAC) {
			k.note(i, frame)
		}
	}
}

// watchHanded notes what the programs give to the daemon by the private interface.
func (k *kindSite) watchHanded() {
	k.t.Helper()
	c := socketOn(k.t, k.director, fmt.Sprint("ulvs", k.link.Attrs().Index))
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		})
	}
	if err != nil {
		k.t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			k.given.Lock()
			k.handed = append(k.handed, bytes.Clone(buf[:n]))
			k.given.Unlock()
		}
	}()
}

// takeHanded returns what was handed since the last time, when it is as many as the daemon has counted.
func (k *kindSite) takeHanded() (list [][]byte) {
	k.t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		counted := k.status()["rx_frames"]
		k.given.Lock()
		list = k.handed
		if len(list) == counted || time.Since(began) > patience {
			k.handed = nil
			k.given.Unlock()
			if len(list) != counted {
				k.t.Errorf("%d frames came by the private interface, and the daemon counted %d", len(list), counted)
			}
			return list
		}
		k.given.Unlock()
	}
}

// summed finishes the checksum of a frame's IPv4 header.
func summed(frame []byte) []byte {
	header := frame[14:34]
	header[10], header[11] = 0, 0
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	return frame
}
