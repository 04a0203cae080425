package fragment

import "github.com/ulvs/ulvs/packet"

// Hold keeps fragments that came before their datagram's first, as the owner
// describes them, until that comes. It keeps a bounded number, of which the
// oldest datagrams give way. It is not safe for concurrent use. Make it with
// NewHold.
type Hold[F any] struct {
	waiting map[key]*datagram[F]
	order   []*datagram[F] // as they came; some are taken already
	frames  int
	limit   int
	life    uint32
}

type datagram[F any] struct {
	key    key
	frames []F
	since  uint32
}

// perDatagram is how many fragments of one datagram are kept: those of 64 kB
// on a link of 1,500 bytes.
const perDatagram = 45

// NewHold makes a Hold for limit fragments, each kept for life ticks at most.
func NewHold[F any](limit int, life uint32) *Hold[F] {
	return &Hold[F]{waiting: map[key]*datagram[F]{}, limit: limit, life: life}
}

// Add keeps a fragment p, described by f. It returns how many fragments were
// given up: older ones for this one, or this one itself.
func (h *Hold[F]) Add(p *packet.Packet, f F, now uint32) (lost int) {
	for len(h.order) > 0 {
		d := h.order[0]
		if d.frames != nil && h.frames < h.limit && int32(now-d.since) < int32(h.life) {
			break
		}
		lost += h.drop(d)
		h.order[0] = nil
		h.order = h.order[1:]
	}
	k := keyOf(p)
	d := h.waiting[k]
	if d == nil {
		d = &datagram[F]{key: k, since: now}
		h.waiting[k] = d
		h.order = append(h.order, d)
	}
	if len(d.frames) == perDatagram {
		return lost + 1
	}
	d.frames = append(d.frames, f)
	h.frames++
	return lost
}

// Take gives back what waits for the datagram whose first fragment p is, in the
// order in which it came; nothing if it has waited too long.
func (h *Hold[F]) Take(p *packet.Packet, now uint32) []F {
	if h.frames == 0 {
		return nil
	}
	d := h.waiting[keyOf(p)]
	if d == nil {
		return nil
	}
	list := d.frames
	h.drop(d)
	if int32(now-d.since) >= int32(h.life) {
		return nil
	}
	return list
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

func (h *Hold[F]) drop(d *datagram[F]) int {
	n := len(d.frames)
	if n > 0 {
		delete(h.waiting, d.key)
	}
	d.frames = nil
	h.frames -= n
	return n
}
