package forward

import (
	"encoding/binary"
	"net/netip"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// What the host would do, and what is answered in its place.

const arpRequest = 1

// arp answers for Service addresses that the host does not have.
func (d *Path) arp(f *dataplane.Frame, p *packet.Packet) {
	if p.ARPOp != arpRequest || !d.answersFor(p.ARPTarget) {
		return
	}
	if mac, ok := d.resolver.LinkAddr(f.In); ok {
		d.answer(f, packet.AppendARPReply(f.Room[:0], f.Data, p, d.ownMAC(mac)))
	}
}

// ownMAC is the address under which Service addresses are announced.
func (d *Path) ownMAC(link dataplane.MAC) dataplane.MAC {
	if d.mac != (dataplane.MAC{}) {
		return d.mac
	}
	return link
}

// intact reports whether a packet's transport checksum is right, or not there
// yet because the sender is on this machine.
func intact(f *dataplane.Frame, p *packet.Packet) bool {
	return f.Offload.Flags&(dataplane.NeedsChecksum|dataplane.ChecksumValid) != 0 || packet.TransportIntact(f.Data, p)
}

// passToHost is IPVS's NF_ACCEPT: the packet goes up the host's stack. Where the
// host does not get it, because the plane keeps the packets of service s from it
// and has no way past that, or because the Service address is not the host's, the
// host's answer is given here: that of a host on which nothing listens.
func (d *Path) passToHost(f *dataplane.Frame, p *packet.Packet, s *Service) {
	to := p.Dest()
	switch local := d.resolver.Local(to); {
	case local && !(d.plane.Withholds() && d.table.claimed(s, to, p)), !local && !d.isVIP(to):
		return
	case local && d.plane.Injects():
		f.Verdict = dataplane.Host
		return
	}
	d.drop(f, dropHost)
	switch {
	case !intact(f, p):
	case d.martian(p):
	case p.Kind == packet.TCP:
		d.answer(f, packet.AppendRST(f.Room[:0], f.Data, p))
	case p.Kind == packet.UDP:
		d.unreachable(f, p, packet.PortUnreachable)
	default:
		d.unreachable(f, p, packet.ProtocolUnreachable)
	}
}

// martian reports a source address that no packet from the wire has; the kernel
// drops such packets before IPVS (net/ipv4/route.c, ip_route_input_slow).
func (d *Path) martian(p *packet.Packet) bool {
	var a [16]byte
	clientAddr(&p.Flow, p.Is6, &a)
	fold := binary.NativeEndian.Uint32(a[:])
	if !p.Is6 {
		if a[0] == 0 || a[0] == 127 || a[0] >= 224 {
			return true
		}
	} else {
		if src := p.Source(); src.IsLoopback() || src.IsMulticast() {
			return true
		}
		for i := 4; i < len(a); i += 4 {
			fold ^= binary.NativeEndian.Uint32(a[i:])
		}
	}
	return d.locals.May(fold, p.Is6) && d.resolver.Local(p.Source())
}

// isVIP reports whether an address is that of a service, or named by a mark
// rule of one.
func (d *Path) isVIP(a netip.Addr) bool { return d.table.vips[a] > 0 || d.table.markVIPs[a] }

// answersFor reports whether the director answers for an address in the place
// of a host: a Service address that the host does not have.
func (d *Path) answersFor(a netip.Addr) bool { return d.isVIP(a) && !d.resolver.Local(a) }

// deliverLocal is a packet whose real server is the director itself: the host gets
// it (ip_vs_dr_xmit, local), if the plane has a way.
func (d *Path) deliverLocal(f *dataplane.Frame) {
	switch {
	case !d.plane.Withholds():
	case d.plane.Injects():
		f.Verdict = dataplane.Host
	default:
		d.drop(f, dropLocal)
	}
}

func (d *Path) unreachable(f *dataplane.Frame, p *packet.Packet, what packet.Unreachable) {
	d.answer(f, packet.AppendUnreachable(f.Room[:0], f.Data, p, p.Dest(), what))
}

// hostUnreachable makes the answer to a frame whose next hop did not answer
// (net/ipv4/arp.c, arp_error_report; net/ipv6/ndisc.c, ndisc_error_report).
func hostUnreachable(f *dataplane.Frame) bool {
	var p packet.Packet
	p.Parse(f.Data)
	if !p.IsIP() {
		return false
	}
	answer := packet.AppendUnreachable(nil, f.Data, &p, p.Dest(), packet.HostUnreachable)
	if len(answer) == 0 {
		return false
	}
	*f = dataplane.Frame{Data: answer, In: f.In, Verdict: dataplane.Transmit}
	return true
}

// answer sends a frame back in the place of the one that came; none if it is
// empty.
func (d *Path) answer(f *dataplane.Frame, frame []byte) {
	if len(frame) == 0 {
		return
	}
	f.Data, f.Offload, f.Hop = frame, dataplane.Offload{}, nil
	f.Verdict = dataplane.Transmit
	d.answered++
}
