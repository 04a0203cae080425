package forward

import (
	"net/netip"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// responder answers in the place of the host, and drops.
type responder struct{ tables }

// What the host would do, and what is answered in its place.

const arpRequest = 1

// arp answers for virtual addresses that the host does not have.
func (r *responder) arp(f *dataplane.Frame, p *packet.Packet) {
	r.hears(f, p)
	if p.ARPOp != arpRequest || !r.answersFor(p.ARPTarget) {
		return
	}
	if mac, ok := r.resolver.LinkAddr(f.In); ok {
		r.answer(f, packet.AppendARPReply(f.Room[:0], f.Data, p, r.ownMAC(mac)))
	}
}

// ownMAC returns the address under which virtual addresses are announced.
func (r *responder) ownMAC(link dataplane.MAC) dataplane.MAC {
	if r.mac != (dataplane.MAC{}) {
		return r.mac
	}
	return link
}

// intact reports whether a packet's transport checksum is right, or not there
// yet because the sender is on this machine.
func intact(f *dataplane.Frame, p *packet.Packet) bool {
	return f.Offload.Flags&(dataplane.NeedsChecksum|dataplane.ChecksumValid) != 0 || packet.TransportIntact(f.Data, p)
}

// passToHost lets a packet go up the host's stack (NF_ACCEPT). Where the
// host does not get it, because the plane keeps the packets of service s from it
// and has no way past that, or because the virtual address is not the host's, the
// host's answer is given here: that of a host on which nothing listens.
func (r *responder) passToHost(f *dataplane.Frame, p *packet.Packet, s *Service) {
	switch local := r.resolver.Local(p.Dest()); {
	case !local && r.isAwayVIP(p.Dest()): // the host may have the address a moment before that is known here
		r.drop(f, dropAway)
		return
	case !r.keeps(f, p, s, local):
		return
	case r.standby.outdated(r.resolver.Locals()): // the service is about to be served, or not: it is nobody's for the moment
		r.drop(f, dropAway)
		return
	case local && r.plane.Injects():
		f.Verdict = dataplane.Host
		return
	}
	r.drop(f, dropHost)
	switch {
	case !intact(f, p):
	case r.martian(p):
	case p.Kind == packet.TCP:
		if rst := packet.AppendRST(f.Room[:0], f.Data, p); len(rst) > 0 && r.limiter.RST(f.In, r.now.Load()) {
			r.answer(f, rst)
		}
	case p.Kind == packet.UDP:
		r.unreachable(f, p, packet.PortUnreachable)
	default:
		r.unreachable(f, p, packet.ProtocolUnreachable)
	}
}

// keeps reports whether the host does not get a packet that is passed, of service s or of
// none: one to an address of its own (local) that is claimed from it, or to a virtual
// address that it does not have.
func (r *responder) keeps(f *dataplane.Frame, p *packet.Packet, s *Service, local bool) bool {
	to := p.Dest()
	if !local {
		return r.isVIP(to)
	}
	return r.plane.Withholds() && (r.index.claimed(s, to, p) || r.leavingClaimed(f, to, p))
}

// martian reports a source address that no packet from the wire has; the kernel
// drops such packets before IPVS (net/ipv4/route.c, ip_route_input_slow).
func (r *responder) martian(p *packet.Packet) bool {
	if p.Is6 {
		if unroutable6(p) {
			return true
		}
	} else if unroutable4(p.Flow.ClientWord()) {
		return true
	}
	return r.locals.May(p.Flow.ClientFold(), p.Is6) && r.resolver.Local(p.Source())
}

// unroutable4 and 6 report a source address that no host has on the wire. 240.0.0.0/4 and
// most of 0.0.0.0/8 are addresses like others to Linux, as are all of IPv6 but loopback and
// groups (ip6_rcv_core).
func unroutable4(word uint32) bool {
	const loopback, groups = 127, 0xe
	return word+1 <= 1 || word>>24 == loopback || word>>28 == groups // no host, all hosts
}

func unroutable6(p *packet.Packet) bool {
	return p.Flow.ClientWord()>>24 == 0xff || p.Source() == netip.IPv6Loopback()
}

// answersFor reports whether the director answers for an address in the place
// of a host: a virtual address that the host does not have.
func (r *responder) answersFor(a netip.Addr) bool { return r.isVIP(a) && !r.resolver.Local(a) }

// deliverLocal gives the host a packet whose real server is the director itself
// (ip_vs_dr_xmit, local), if the plane has a way.
func (r *responder) deliverLocal(f *dataplane.Frame) {
	switch {
	case !r.plane.Withholds():
	case r.plane.Injects():
		f.Verdict = dataplane.Host
	default:
		r.drop(f, dropLocal)
	}
}

// unreachable answers a packet with destination unreachable, if the host would now.
func (r *responder) unreachable(f *dataplane.Frame, p *packet.Packet, what packet.Unreachable) {
	if r.mayError(f, p, unreachable(what)) {
		r.answer(f, packet.AppendUnreachable(f.Room[:0], f.Data, p, p.Dest(), what))
	}
}

// answer sends a frame back in the place of the one that came; none if it is
// empty.
func (r *responder) answer(f *dataplane.Frame, frame []byte) {
	if len(frame) == 0 {
		return
	}
	f.Data, f.Offload, f.Hop = frame, dataplane.Offload{}, nil
	f.Verdict = dataplane.Transmit
	r.answered++
}
