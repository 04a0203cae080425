package fragment

import "github.com/ulvs/ulvs/packet"

// Hold keeps fragments that came before their datagram's first, as the owner
// describes them, until that comes. It keeps a bounded number of fragments and of
// bytes; the datagrams that have waited longest give way. It is not safe for
// concurrent use. Make it with NewHold.
type Hold[F any] struct {
	waiting        map[key]*datagram[F]
	oldest, newest *datagram[F] // of those in waiting, in a list
	frames, bytes  int
	limit, space   int
	life           uint32
}

// datagram is one of which fragments wait: at least one.
type datagram[F any] struct {
	key          key
	frames       []F
	bytes        int
	since        uint32
	older, newer *datagram[F]
}

// perDatagram is how many fragments of one datagram are kept: those of 64 kB
// on a link of 1,500 bytes.
const perDatagram = 45

// NewHold makes a Hold for limit fragments that have space bytes together, from
// their IP headers on, each kept for life ticks at most.
func NewHold[F any](limit, space int, life uint32) *Hold[F] {
	return &Hold[F]{waiting: map[key]*datagram[F]{}, limit: limit, space: space, life: life}
}

// Add keeps a fragment p, described by f. It returns how many fragments were
// given up: older ones for this one, or this one itself.
func (h *Hold[F]) Add(p *packet.Packet, f F, now uint32) (lost int) {
	size := p.End - p.L3
	for d := h.oldest; d != nil; d = h.oldest {
		if h.frames < h.limit && h.bytes+size <= h.space && !h.over(d, now) {
			break
		}
		lost += len(d.frames)
		h.remove(d)
	}
	k := keyOf(p)
	d := h.waiting[k]
	if d == nil {
		d = &datagram[F]{key: k, since: now}
		h.insert(d)
	}
	if len(d.frames) == perDatagram {
		return lost + 1
	}
	d.frames = append(d.frames, f)
	d.bytes += size
	h.frames++
	h.bytes += size
	return lost
}

// Take gives back what waits for the datagram whose first fragment p is, in the
// order in which it came; nothing if it has waited too long.
func (h *Hold[F]) Take(p *packet.Packet, now uint32) []F {
	if h.frames == 0 {
		return nil
	}
	d := h.waiting[keyOf(p)]
	if d == nil || h.over(d, now) { // Add gives it up
		return nil
	}
	h.remove(d)
	return d.frames
}

// Waiting returns what Take would give back, and keeps it.
func (h *Hold[F]) Waiting(p *packet.Packet) []F {
	if d := h.waiting[keyOf(p)]; d != nil {
		return d.frames
	}
	return nil
}

// Len is how many fragments wait.
func (h *Hold[F]) Len() int { return h.frames }

// over reports whether a datagram has waited for too long.
func (h *Hold[F]) over(d *datagram[F], now uint32) bool { return int32(now-d.since) >= int32(h.life) }

// insert and remove keep the map and the list, which have the same datagrams.
func (h *Hold[F]) insert(d *datagram[F]) {
	h.waiting[d.key] = d
	if d.older = h.newest; d.older != nil {
		d.older.newer = d
	} else {
		h.oldest = d
	}
	h.newest = d
}

func (h *Hold[F]) remove(d *datagram[F]) {
	delete(h.waiting, d.key)
	if d.older != nil {
		d.older.newer = d.newer
	} else {
		h.oldest = d.newer
	}
	if d.newer != nil {
		d.newer.older = d.older
	} else {
		h.newest = d.older
	}
	h.frames -= len(d.frames)
	h.bytes -= d.bytes
}
