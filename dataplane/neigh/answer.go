package neigh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// answer is what a neighbour says about itself.
type answer struct {
	key       key
	mac       dataplane.MAC
	has       bool // mac holds an address
	solicited bool // it answers a question of this host
	override  bool // it takes the place of an address that is known
}

// listenARP passes ARP answers on until the socket is closed.
func (s *solicitor) listenARP(out chan<- answer, end <-chan struct{}) error {
	return listenOn(s.link, out, end, func(b, _ []byte, from unix.Sockaddr) (answer, bool) {
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OTHERHOST {
			return answer{}, false
		}
		return parseARP(b, ll.Ifindex, ll.Pkttype == unix.PACKET_HOST)
	})
}

// listenND does so with neighbour advertisements.
func (s *solicitor) listenND(out chan<- answer, end <-chan struct{}) error {
	if s.nd == nil {
		return nil
	}
	return listenOn(s.nd, out, end, func(b, oob []byte, _ unix.Sockaddr) (answer, bool) {
		ifindex, hops := arrived(oob)
		return parseAdvertisement(b, ifindex, hops)
	})
}

// listenOn passes what parse makes of messages on until the socket is closed.
func listenOn(s *socket, out chan<- answer, end <-chan struct{},
	parse func(b, oob []byte, from unix.Sockaddr) (answer, bool)) error {
	buf, oob := make([]byte, 1500), make([]byte, 256)
	for {
		n, oobn, from, err := s.receive(buf, oob, true)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue // an interface went down, others have not
		case err != nil:
			return fmt.Errorf("receiving the answers of neighbours ended: %w", err)
		}
		a, ok := parse(buf[:n], oob[:oobn], from)
		if !ok {
			continue
		}
		select {
		case out <- a:
		case <-end:
			return nil
		}
	}
}

// parseARP reads an ARP message as arp_process does (net/ipv4/arp.c).
func parseARP(b []byte, ifindex int, toUs bool) (a answer, ok bool) {
	if len(b) < arpLen || [6]byte(b) != [6]byte{0, 1, 0x08, 0, 6, 4} {
		return a, false
	}
	op, sender, target := binary.BigEndian.Uint16(b[6:]), [4]byte(b[14:]), [4]byte(b[24:])
	if op != arpReply && (op != arpRequest || sender != target) {
		return a, false
	}
	return answer{key: key{ifindex, netip.AddrFrom4(sender)}, mac: dataplane.MAC(b[8:14]), has: true,
		solicited: op == arpReply && toUs, override: sender == target}, true
}

// parseAdvertisement reads a neighbour advertisement as ndisc_recv_na does
// (net/ipv6/ndisc.c). The kernel has verified its checksum.
func parseAdvertisement(b []byte, ifindex, hops int) (a answer, ok bool) {
	const solicited, override = 0x40, 0x20
	if len(b) < advertisementLen || b[0] != advertisement || b[1] != 0 || hops != hopLimit || ifindex == 0 {
		return a, false
	}
	a = answer{key: key{ifindex, netip.AddrFrom16([16]byte(b[8:]))},
		solicited: b[4]&solicited != 0, override: b[4]&override != 0}
	for options := b[advertisementLen:]; len(options) >= 8; {
		n := int(options[1]) * 8
		if n == 0 || n > len(options) {
			return answer{}, false
		}
		if options[0] == targetLink && n == 8 {
			a.mac, a.has = dataplane.MAC(options[2:8]), true
		}
		options = options[n:]
	}
	return a, true
}

// arrived reads by which interface a message came, and with what hop limit.
func arrived(oob []byte) (ifindex, hops int) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, 0
	}
	for _, m := range list {
		switch {
		case m.Header.Level != unix.IPPROTO_IPV6:
		case m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 20:
			ifindex = int(binary.NativeEndian.Uint32(m.Data[16:]))
		case m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4:
			hops = int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return ifindex, hops
}

// locktime is how long the first of several answers holds against others (the
// kernel's net.ipv4.neigh.*.locktime).
const locktime = time.Second

// accept takes a neighbour's word about itself, where the kernel's table has none. It
// reports whether hops that lead there may have to publish something new.
func (r *Resolver) accept(a answer, now time.Time) bool {
	e := r.entries[a.key]
	if e == nil || e.valid() && !e.own || !e.valid() && !e.asking() {
		return false
	}
	was := e.state
	switch {
	case !a.has && !e.valid():
		return false // it may have an address, but does not say which
	case a.has && e.valid() && a.mac != e.mac:
		if !a.override && (e.key.addr.Is6() || now.Sub(e.movedAt) < locktime) {
			return false
		}
	case !a.solicited && e.valid():
		return false // nothing new
	}
	if a.has && (!e.valid() || a.mac != e.mac) {
		e.mac, e.has, e.movedAt = a.mac, true, now
	}
	e.nud, e.own, e.silent = netlink.NUD_REACHABLE, true, false
	e.settle(now.Add(r.opt.Verify))
	if !a.solicited {
		e.verifyAt = now // as STALE
	}
	return !was.valid() || was.mac != e.mac
}
