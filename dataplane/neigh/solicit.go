package neigh

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/ulvs/ulvs/dataplane"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// solicitor asks neighbours for their link addresses by ARP and neighbour discovery,
// as the kernel does, but without its table: strangers fill that, and then the kernel
// asks nobody that it does not have already (net/core/neighbour.c, neigh_alloc).
type solicitor struct {
	link *socket // sends both, and receives ARP
	nd   *socket // receives advertisements; nil without IPv6
	open bool    // answers are received: somebody was asked
}

// openSolicitor opens its sockets in the calling thread's network namespace, which
// needs CAP_NET_RAW.
func openSolicitor() (*solicitor, error) {
	// Protocol 0 receives nothing until the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := new(solicitor)
	if s.link, err = newSocket(fd, "arp"); err != nil {
		return nil, err
	}
	fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		err = nil
	case err == nil:
		s.nd, err = newSocket(fd, "icmpv6")
	}
	if err == nil {
		err = s.listen(false)
	}
	if err == nil {
		err = s.link.control(func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ARP)})
		})
	}
	if err == nil && s.nd != nil {
		err = s.nd.control(func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1),
				unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
		})
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// bigEndian gives an Ethernet type as sockaddr_ll has it.
func bigEndian(etherType uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType))
}

func (s *solicitor) close() {
	s.link.close()
	if s.nd != nil {
		s.nd.close()
	}
}

// ARP of IPv4 over Ethernet (RFC 826).
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

// arpAnswers lets in what may say where a neighbour is: replies, and announcements,
// which have one address twice. Requests, of which there may be a flood, are the kernel's.
var arpAnswers = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: arpReply, SkipTrue: 4},
	bpf.LoadAbsolute{Off: 14, Size: 4}, // sender
	bpf.TAX{},
	bpf.LoadAbsolute{Off: 24, Size: 4}, // target
	bpf.JumpIfX{Cond: bpf.JumpNotEqual, SkipTrue: 1},
	bpf.RetConstant{Val: arpLen},
	bpf.RetConstant{Val: 0},
}

// listen has answers received, or not. While nobody is asked, they are the kernel's
// alone and cost nothing here.
func (s *solicitor) listen(on bool) error {
	filter := []bpf.Instruction{bpf.RetConstant{Val: 0}}
	var block unix.ICMPv6Filter
	for i := range block.Data {
		block.Data[i] = ^uint32(0)
	}
	if s.open = on; on {
		filter = arpAnswers
		block.Data[advertisement/32] &^= 1 << (advertisement % 32)
	}
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, x := range raw {
		program[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	err = s.link.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err == nil && s.nd != nil {
		err = s.nd.control(func(fd int) error {
			return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &block)
		})
	}
	return err
}

// question is one for a neighbour's link address: to everybody, or only to at, if that is
// not nil, to see whether it is there still.
type question struct {
	at *dataplane.MAC
	// anonymous leaves the asking address out of ARP (RFC 5227, 1.1). A host answers that
	// without an entry for who asks, for which its own table may have no room
	// (net/ipv4/arp.c, arp_process).
	anonymous bool
}

// ask asks for k's link address.
func (s *solicitor) ask(k key, l *link, q question) error {
	to, etherType := dataplane.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(unix.ETH_P_ARP)
	var message []byte
	if k.addr.Is4() {
		message = request(k.addr, l, q.anonymous)
	} else {
		from := l.linkLocal
		if !from.IsValid() {
			from = l.source6
		}
		if !from.IsValid() {
			return unix.EADDRNOTAVAIL
		}
		// The solicited-node multicast address (RFC 4291, 2.7.1).
		a := k.addr.As16()
		dst := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
		to, etherType = dataplane.MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}, unix.ETH_P_IPV6
		if q.at != nil {
			dst = k.addr
		}
		message = solicitation(k.addr, from, dst, l.mac)
	}
	if q.at != nil {
		to = *q.at
	}
	sa := &unix.SockaddrLinklayer{Protocol: bigEndian(etherType), Ifindex: k.ifindex, Halen: uint8(len(to))}
	copy(sa.Addr[:], to[:])
	return s.link.control(func(fd int) error { return unix.Sendto(fd, message, 0, sa) })
}

// askWire asks for k on the wire, and listens to the answers.
func (r *Resolver) askWire(k key, l *link, q question) error {
	if r.wire == nil {
		return unix.EPERM
	}
	if !r.wire.open {
		if err := r.wire.listen(true); err != nil {
			return err
		}
	}
	r.asked.Add(1)
	return r.wire.ask(k, l, q)
}

// hush ends listening to answers: nobody was asked.
func (r *Resolver) hush() {
	if r.wire != nil && r.wire.open {
		_ = r.wire.listen(false)
	}
}

// request is an ARP request. Its source is the interface's address in the target's
// network, which a real server may insist on (arp_ignore 2), or else its first.
func request(target netip.Addr, l *link, anonymous bool) []byte {
	source := l.source4
	for _, p := range l.prefixes4 {
		if p.Contains(target) {
			source = p.Addr()
			break
		}
	}
	if anonymous || !source.IsValid() {
		source = netip.IPv4Unspecified()
	}
	b := []byte{0, 1, 0x08, 0, 6, 4, 0, arpRequest}
	b = append(b, l.mac[:]...)
	b = append(b, source.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, target.AsSlice()...)
}

// Neighbour discovery (RFC 4861).
const (
	ipv6Len          = 40
	solicit          = 135
	advertisement    = 136
	advertisementLen = 24
	sourceLink       = 1 // options
	targetLink       = 2
	// hopLimit shows that no router has forwarded a message.
	hopLimit = 255
)

// solicitation is a neighbour solicitation with its IPv6 header.
func solicitation(target, from, to netip.Addr, mac dataplane.MAC) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 32, unix.IPPROTO_ICMPV6, hopLimit}
	b = append(b, from.AsSlice()...)
	b = append(b, to.AsSlice()...)
	b = append(b, solicit, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	b = append(b, sourceLink, 1)
	b = append(b, mac[:]...)
	sum := uint32(len(b)-ipv6Len) + unix.IPPROTO_ICMPV6
	for i := 8; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[ipv6Len+2:], ^uint16(sum))
	return b
}
