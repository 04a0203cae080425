package forward

import (
	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// transmitter sends packets on to their real servers.
type transmitter struct{ responder }

// transmit sends a packet on to its server, or answers why not
// (ip_vs_xmit.c, ip_vs_dr_xmit and __ip_vs_get_out_rt).
func (tx *transmitter) transmit(f *dataplane.Frame, p *packet.Packet, dst *Dest, method ulvs.ForwardMethod) {
	if method != ulvs.DirectRoute {
		tx.drop(f, dropMethod)
		return
	}
	n := dst.hop.Neighbor()
	switch {
	case n.State == dataplane.HopLocal:
		tx.deliverLocal(f)
		return
	case n.State == dataplane.HopUnreachable && n.Ifindex == 0:
		tx.drop(f, dropNoRoute)
		tx.unreachable(f, p, packet.HostUnreachable)
		return
	case p.TTL <= 1:
		tx.drop(f, dropTTL)
		if tx.mayError(f, p, timeExceeded) {
			tx.answer(f, packet.AppendTimeExceeded(f.Room[:0], f.Data, p, p.Dest()))
		}
		return
	case n.MTU > 0 && p.End-p.L3 > n.MTU && tooBig(f, p, n.MTU):
		if !p.Is6 && !p.DF && f.Offload.GSOSize == 0 {
			tx.cut(f, p, dst.hop, n.MTU)
			return
		}
		tx.drop(f, dropTooBig)
		if tx.mayError(f, p, fragNeeded) {
			tx.answer(f, packet.AppendFragNeeded(f.Room[:0], f.Data, p, p.Dest(), n.MTU))
		}
		return
	}
	if dst.pushed != n {
		tx.index.mirror.pushServer(dst)
	}
	if p.Records {
		tx.record(f, p)
	}
	packet.DecrementTTL(f.Data, p)
	f.Hop = dst.hop
	f.Verdict = dataplane.Transmit
}

// account counts a packet for its server and service (ip_vs_in_stats).
func (tx *transmitter) account(dst *Dest, p *packet.Packet) {
	if !dst.available {
		return
	}
	packets, size := uint64(1), uint64(p.End-p.L3)
	if p.Fragment {
		packets, size = fragmentCounts(p)
	}
	dst.Packets += packets
	dst.Bytes += size
	dst.svc.Packets += packets
	dst.svc.Bytes += size
}

// tooBig reports whether a packet that is larger than the MTU may not go as
// it is: one that will be segmented on the way out is measured by its segments
// (ip_vs_exceeds_mtu), and what is no error itself may say DF.
func tooBig(f *dataplane.Frame, p *packet.Packet, mtu int) bool {
	if f.Offload.GSOSize != 0 {
		// The offload's own header length is a hint, and on many NICs wrong.
		headers := p.L4 - p.L3 + 8
		if p.Kind == packet.TCP {
			headers += int(f.Data[p.L4+12]>>4)*4 - 8
		}
		return headers+int(f.Offload.GSOSize) > mtu
	}
	return p.Kind != packet.ICMP
}

// cut sends a packet that is larger than the way to its server permits, and may
// be fragmented, in pieces (net/ipv4/ip_output.c, ip_do_fragment).
func (tx *transmitter) cut(f *dataplane.Frame, p *packet.Packet, hop *dataplane.NextHop, mtu int) {
	if f.Offload.Flags&dataplane.NeedsChecksum != 0 {
		finishChecksum(f, p)
	}
	if p.Records {
		tx.record(f, p)
	}
	packet.DecrementTTL(f.Data, p)
	for at := 0; at >= 0; {
		var piece []byte
		if piece, at = packet.AppendFragment(nil, f.Data, p, mtu, at); piece == nil {
			tx.drop(f, dropTooBig) // an MTU that holds no data
			return
		}
		tx.plane.Send(&dataplane.Frame{Data: piece, In: f.In, Hop: hop, Verdict: dataplane.Transmit})
	}
	f.Verdict = dataplane.Drop
}

// finishChecksum does what the card would have done.
func finishChecksum(f *dataplane.Frame, p *packet.Packet) {
	if p.Kind == packet.SCTP {
		packet.CompleteSCTP(f.Data[p.L4:p.End])
	} else {
		packet.CompleteChecksum(f.Data[:p.End], int(f.Offload.CsumStart), int(f.Offload.CsumOffset))
	}
}
