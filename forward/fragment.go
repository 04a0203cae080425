package forward

import (
	"math"
	"net/netip"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// Fragments: the kernel puts datagrams together before IPVS sees them
// (ip_local_deliver, nf_defrag_ipv6) and takes them apart again. Here they are
// forwarded as they come, each after its datagram's first.

// toHost is where datagrams go that are the host's: no real server has this
// number.
const toHost = math.MaxUint32

// firstFragment remembers where a datagram's first fragment went. Those that
// follow go there too, and those that came before it go now.
func (d *Path) firstFragment(f *dataplane.Frame, p *packet.Packet, to *Dest, tick uint32) {
	if f.Verdict != dataplane.Transmit || f.Hop == nil {
		return
	}
	d.fragments.First(p, to.ID, tick)
	for _, e := range d.early.Take(p, tick) {
		var q packet.Packet
		q.Parse(e.Data)
		d.account(to, &q)
		if d.transmit(&e, &q, to, to.conf.Forward); e.Verdict == dataplane.Transmit {
			d.plane.Send(&e)
		}
	}
}

// hostFragment remembers that a datagram was left to the host, where the plane may
// withhold its later fragments, though not the first.
func (d *Path) hostFragment(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	if !p.Fragment || f.Verdict != dataplane.Pass && f.Verdict != dataplane.Host || !d.plane.Withholds() || !d.plane.Injects() {
		return
	}
	d.fragments.First(p, toHost, tick)
	for _, e := range d.early.Take(p, tick) {
		var q packet.Packet
		q.Parse(e.Data)
		if d.fragmentToHost(&e, &q); e.Verdict == dataplane.Host {
			d.plane.Send(&e)
		}
	}
}

// fragmentToHost gives a later fragment to the host, if the plane withholds it: it has no
// ports, and is claimed with those of a service on its address and protocol, and
// by mark rules that do not ask for ports.
func (d *Path) fragmentToHost(f *dataplane.Frame, p *packet.Packet) {
	claimed := d.table.protocols[endpoint{p.Dest(), p.Proto}] > 0
	if mark := d.mark(f, p); !claimed && mark != 0 {
		claimed = d.table.FindMark(mark, p.Is6) != nil
	}
	if claimed {
		f.Verdict = dataplane.Host
	}
}

// laterFragment sends a fragment without ports after its datagram's first, or
// keeps it until that comes.
func (d *Path) laterFragment(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	id, ok := d.fragments.Later(p, tick)
	switch {
	case !ok:
		d.hold(f, p, tick)
		return
	case id == toHost:
		d.fragmentToHost(f, p)
		return
	}
	dst := d.table.dests[id]
	if dst == nil || !dst.available {
		d.drop(f, dropDestGone)
		return
	}
	d.account(dst, p)
	d.transmit(f, p, dst, dst.conf.Forward)
}

// hold keeps a fragment that came before its datagram's first.
func (d *Path) hold(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	if !d.isVIP(p.Dest()) {
		return
	}
	e := dataplane.Frame{Data: append([]byte(nil), f.Data...), Offload: f.Offload, In: f.In}
	d.drops[dropFragment] += uint64(d.early.Add(p, e, tick))
	if d.answersFor(p.Dest()) {
		f.Verdict = dataplane.Drop
	}
}

// fragmentCounts is what a fragment adds to the counters, so that the fragments
// of a datagram together are one packet of its size.
func fragmentCounts(p *packet.Packet) (packets, size uint64) {
	if p.FragOffset > 0 {
		return 0, uint64(p.End - p.L4)
	}
	const extension = 8 // IPv6's fragment header, which the whole does not have
	if p.Is6 {
		return 1, uint64(p.End - p.L3 - extension)
	}
	return 1, uint64(p.End - p.L3)
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
func (d *Path) cut(f *dataplane.Frame, p *packet.Packet, hop *dataplane.NextHop, mtu int) {
	if f.Offload.Flags&dataplane.NeedsChecksum != 0 {
		finishChecksum(f, p)
	}
	packet.DecrementTTL(f.Data, p)
	for at := 0; at >= 0; {
		var piece []byte
		if piece, at = packet.AppendFragment(nil, f.Data, p, mtu, at); piece == nil {
			d.drop(f, dropTooBig) // an MTU that holds no data
			return
		}
		d.plane.Send(&dataplane.Frame{Data: piece, In: f.In, Hop: hop, Verdict: dataplane.Transmit})
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

// endpoint is an address and an IP protocol.
type endpoint struct {
	addr  netip.Addr
	proto uint8
}
