package forward

import (
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/ratelimit"
	"github.com/ulvs/ulvs/packet"
)

// message is an ICMP message by its numbers: IPv4's type and code, and IPv6's type.
type message struct{ type4, code4, type6 uint8 }

var (
	timeExceeded = message{11, 0, 3}
	fragNeeded   = message{3, 4, 2}
	echoReply    = message{0, 0, 129}
)

func unreachable(what packet.Unreachable) message {
	if what == packet.ProtocolUnreachable {
		return message{3, uint8(what), 4} // a parameter problem
	}
	return message{3, uint8(what), 1}
}

// mayError reports whether a packet may be answered with an ICMP error, and the host would
// now.
func (tb *tables) mayError(f *dataplane.Frame, p *packet.Packet, m message) bool {
	return p.AnswerableByError(f.Data) && tb.maySend(p, m)
}

// maySend reports whether the host would send an ICMP message to a packet's sender now, as
// far as it limits how many it sends.
func (tb *tables) maySend(p *packet.Packet, m message) bool {
	out := ratelimit.Message{IPv6: p.Is6, Type: m.type4, Code: m.code4}
	if p.Is6 {
		out.Type, out.Code = m.type6, 0
	}
	clientAddr(&p.Flow, p.Is6, &out.To)
	return tb.limiter.ICMP(&out, tb.now.Load()) == ratelimit.Allowed
}

// answerLost makes the answer to a frame whose next hop did not answer, if the host would
// send one now (net/ipv4/arp.c, arp_error_report; net/ipv6/ndisc.c, ndisc_error_report). It
// is called without the forwarding lock.
func (tb *tables) answerLost(f *dataplane.Frame) bool {
	var p packet.Packet
	p.Parse(f.Data)
	if !p.IsIP() || !tb.mayError(f, &p, unreachable(packet.HostUnreachable)) {
		return false
	}
	answer := packet.AppendUnreachable(nil, f.Data, &p, p.Dest(), packet.HostUnreachable)
	if len(answer) == 0 {
		return false
	}
	*f = dataplane.Frame{Data: answer, In: f.In, Verdict: dataplane.Transmit}
	return true
}
