package forward

import (
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// icmp decides about an ICMP packet: an error follows the connection that it
// quotes (ip_vs_in_icmp, ip_vs_in_icmp_v6); what the host would answer if it
// had the address is answered.
func (in *Path) icmp(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	if p.Is6 && unroutable6(p) || !p.Is6 && in.martian(p) {
		return // the host drops it
	}
	q := &p.Quoted
	if p.IsICMPError() && q.OK && !p.Fragment {
		if q.FragOffset > 0 {
			return
		}
		flow := q.Flow
		if isIPsec(q.Proto, q.Is6) {
			flow = isakmpFlow(&flow)
		}
		hash := in.conns.Hash(&flow)
		id, found := in.find(&flow, hash)
		var dst *Dest
		var oneShot bool
		if found {
			dst = in.index.dests[in.conns.Dest(id)]
		} else if in.sysctl.ScheduleICMP != 0 {
			id, dst, oneShot = in.scheduleQuoted(f, p, hash, tick)
		}
		if dst == nil || in.unhooked(f, dst, p) {
			return
		}
		// The kernel looks at IPv4's only (ip_vs_in_icmp_v6 does not).
		if !p.Is6 && !intact(f, p) {
			in.drop(f, dropChecksum)
			return
		}
		in.icmpErrors.count(f)
		in.account(dst, p)
		method := dst.conf.Forward
		if !oneShot {
			in.conns.Counted(id)
			method = methodOf(in.conns.Owner(id))
		}
		in.transmit(f, p, dst, method)
		return
	}
	if p.Is6 && p.ICMPType == neighborSolicitation {
		if target, ok := p.NDTarget(f.Data); ok && in.answersFor(target) {
			if mac, ok := in.resolver.LinkAddr(f.In); ok {
				in.answer(f, packet.AppendNeighborAdvert(f.Room[:0], f.Data, p, target, in.ownMAC(mac)))
			}
		}
		return
	}
	if p.Is6 && p.ICMPType == neighborAdvertisement {
		in.hears(f, p)
		return
	}
	echo := uint8(echoRequest)
	if p.Is6 {
		echo = echoRequest6
	}
	if p.ICMPType == echo && !p.Fragment && in.answersFor(p.Dest()) && intact(f, p) && in.maySend(p, echoReply) {
		in.answer(f, packet.AppendEchoReply(f.Room[:0], f.Data, p))
	}
}

const (
	echoRequest           = 8
	echoRequest6          = 128
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)
