package forward

import (
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// refused decides about a packet that the host refuses for its options before IPVS sees
// it. Where the host does not get it, its sender is told in the host's place.
func (in *Path) refused(f *dataplane.Frame, p *packet.Packet) {
	cause := dropOptions
	if p.Refused == packet.SourceRouted {
		cause = dropSourceRoute
	}
	if p.FragOffset > 0 {
		// Never answered. It follows no first one.
		if in.isVIP(p.Dest()) {
			in.drop(f, cause)
		}
		return
	}
	switch p.Damage {
	case packet.TruncatedTCP, packet.TruncatedUDP, packet.TruncatedSCTP:
		p.Kind, p.Damage = packet.OtherIP, packet.Undamaged // the host has not come to that yet
	}
	local := in.resolver.Local(p.Dest())
	if !in.keeps(f, p, in.service(f, p, p), local) {
		return
	}
	in.drop(f, cause)
	if !in.martian(p) {
		in.answer(f, packet.AppendParameterProblem(f.Room[:0], f.Data, p, p.Dest()))
	}
}

// record fills in what a packet's options ask for. It reads a clock, as few packets have
// it do.
func (tx *transmitter) record(f *dataplane.Frame, p *packet.Packet) {
	now := time.Now().UTC()
	day := now.Sub(now.Truncate(24 * time.Hour))
	packet.Record(f.Data, p, uint32(day/time.Millisecond), tx.resolver.Local)
}
