package forward

import (
	"math"
	"net/netip"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// fragmenter has the fragments of a datagram follow its first.
type fragmenter struct{ transmitter }

// Fragments: the kernel puts datagrams together before IPVS sees them
// (ip_local_deliver, nf_defrag_ipv6) and takes them apart again. Here they are
// forwarded as they come, each after its datagram's first.

// toHost is where datagrams go that are the host's: no real server has this
// number.
const toHost = math.MaxUint32

// firstFragment remembers where a datagram's first fragment went. Those that
// follow go there too, and those that came before it go now.
func (fr *fragmenter) firstFragment(f *dataplane.Frame, p *packet.Packet, to *Dest, tick uint32) {
	if f.Verdict != dataplane.Transmit || f.Hop == nil {
		return
	}
	fr.fragments.First(p, to.ID, tick)
	fr.fragmented.count(f)
	for _, e := range fr.early.Take(p, tick) {
		var q packet.Packet
		q.Parse(e.Data)
		fr.account(to, &q)
		fr.fragmented.count(&e)
		if fr.transmit(&e, &q, to, to.conf.Forward); e.Verdict == dataplane.Transmit {
			fr.plane.Send(&e)
		}
	}
}

// hostFragment remembers that a datagram was left to the host, where the plane may
// withhold its later fragments, though not the first, or has had those held that came before it.
func (fr *fragmenter) hostFragment(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	if !p.Fragment || f.Verdict != dataplane.Pass && f.Verdict != dataplane.Host || !fr.plane.Injects() {
		return
	}
	fr.fragments.First(p, toHost, tick)
	for _, e := range fr.early.Take(p, tick) {
		var q packet.Packet
		q.Parse(e.Data)
		if fr.fragmentToHost(&e, &q); e.Verdict == dataplane.Host || e.Taken {
			e.Verdict = dataplane.Host
			fr.plane.Send(&e)
		}
	}
}

// fragmentToHost gives a later fragment to the host, if the plane withholds it: it has no
// ports, and is claimed with those of a service on its address and protocol, and
// by mark rules that do not ask for ports.
func (fr *fragmenter) fragmentToHost(f *dataplane.Frame, p *packet.Packet) {
	claimed := fr.index.protocols[Endpoint{p.Dest(), p.Proto}] > 0
	if mark := fr.mark(f, p); !claimed && mark != 0 {
		claimed = fr.index.FindMark(mark, p.Is6) != nil
	}
	if claimed || fr.returns(f) || fr.leavingFragment(f, p) {
		f.Verdict = dataplane.Host
	}
}

// laterFragment sends a fragment without ports after its datagram's first, or
// keeps it until that comes, and reports that.
func (fr *fragmenter) laterFragment(f *dataplane.Frame, p *packet.Packet, tick uint32) (held bool) {
	id, ok := fr.fragments.Later(p, tick)
	switch {
	case !ok:
		fr.hold(f, p, tick)
		return true
	case id == toHost:
		fr.fragmentToHost(f, p)
		return false
	}
	dst := fr.index.dests[id]
	if dst != nil && dst.suspended {
		fr.drop(f, dropAway)
		return false
	}
	if dst == nil || !dst.available {
		fr.drop(f, dropDestGone)
		return false
	}
	fr.account(dst, p)
	fr.fragmented.count(f)
	fr.transmit(f, p, dst, dst.conf.Forward)
	return false
}

// follows reports whether datagrams to a fragment's destination may be the director's, or are
// withheld from the host.
func (fr *fragmenter) follows(f *dataplane.Frame, p *packet.Packet) bool {
	return fr.isVIP(p.Dest()) || fr.leavingFragment(f, p)
}

// hold keeps a fragment that came before its datagram's first.
func (fr *fragmenter) hold(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	if !fr.follows(f, p) {
		return
	}
	e := dataplane.Frame{Data: append([]byte(nil), f.Data...), Offload: f.Offload, In: f.In, Taken: f.Taken}
	fr.drops[dropFragment] += uint64(fr.early.Add(p, e, tick))
	if fr.answersFor(p.Dest()) || fr.returns(f) {
		f.Verdict = dataplane.Drop
	}
}

// returns reports whether the host gets a frame if it is passed, and only then: one that is held it gets later.
func (fr *fragmenter) returns(f *dataplane.Frame) bool {
	return f.Taken || !fr.plane.Withholds() && fr.plane.Injects()
}

// rare counts packets that no program forwards, and apart those that were taken from the host on the way.
type rare struct{ all, taken uint64 }

func (r *rare) count(f *dataplane.Frame) {
	r.all++
	if f.Taken {
		r.taken++
	}
}

// fragmentCounts returns what a fragment adds to the counters, so that the fragments
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

// Endpoint is an address and an IP protocol.
type Endpoint struct {
	Addr  netip.Addr
	Proto uint8
}
