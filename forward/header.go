package forward

import (
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// holdsHeader reports a first fragment whose transport header ends in a later one, as the
// kernel sees it when it has put the datagram together; but for TCP in IPv6, of which it drops
// such a first (net/ipv6/reassembly.c, ipv6frag_thdr_truncated).
func (fr *fragmenter) holdsHeader(f *dataplane.Frame, p *packet.Packet) bool {
	switch p.Damage {
	case packet.TruncatedTCP:
		return p.Fragment && !p.Is6 && fr.follows(f, p)
	case packet.TruncatedSCTP:
		return p.Fragment && fr.follows(f, p)
	}
	return false
}

// truncatedFirst reports the first fragment of TCP in IPv6 that the kernel drops where it puts datagrams
// together before IPVS, without a word, and that the host, which would get it, answers.
func (fr *fragmenter) truncatedFirst(f *dataplane.Frame, p *packet.Packet) bool {
	return p.Damage == packet.TruncatedTCP && p.Fragment && p.Is6 && fr.returns(f) && fr.follows(f, p)
}

// headerSize is how much of TCP or SCTP decides about a packet.
const headerSize = 20

// completeHeader decides about a datagram whose transport header is in several fragments,
// once they are there.
func (in *Path) completeHeader(p *packet.Packet, tick uint32) {
	var first dataplane.Frame
	var q packet.Packet
	var header []byte
	waiting := in.early.Waiting(p)
	for again := true; again && len(header) < headerSize; {
		again = false
		for _, e := range waiting {
			var piece packet.Packet
			piece.Parse(e.Data)
			if int(piece.FragOffset) != len(header) || piece.L4 == piece.End {
				continue
			}
			if len(header) == 0 {
				first, q = e, piece
			}
			header, again = append(header, e.Data[piece.L4:piece.End]...), true
		}
	}
	if len(header) < headerSize || !in.holdsHeader(&first, &q) {
		return
	}
	for _, e := range in.early.Take(p, tick) {
		if &e.Data[0] != &first.Data[0] {
			var piece packet.Packet
			piece.Parse(e.Data)
			in.drops[dropFragment] += uint64(in.early.Add(&piece, e, tick))
		}
	}
	if q.ReadTransport(header); q.Kind == packet.Damaged {
		return
	}
	in.transport(&first, &q, &early{hash: in.conns.Hash(&q.Flow), opens: opens(&q)}, tick)
	if first.Verdict == dataplane.Pass && in.returns(&first) {
		first.Verdict = dataplane.Host
	}
	if first.Verdict == dataplane.Transmit || first.Verdict == dataplane.Host {
		in.plane.Send(&first)
	}
}
