package forward

import (
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
)

// trashPeriod is how long a destination without connections stays in the
// trash after that was noticed (IP_VS_DEST_TRASH_PERIOD).
const trashPeriod = 120 * hz

// trash is the destinations that were removed, in that order. Any of them is found at once:
// after a table of a hundred thousand was cleared, each that is added is looked for here.
type trash struct {
	list []*Dest // with gaps, which are nil
	gaps int
	by   map[trashKey][]*Dest
}

// trashKey is what a destination is known by that comes back.
type trashKey struct {
	service ulvs.ServiceKey
	at      netip.AddrPort
}

func (d *Dest) trashKey() trashKey { return trashKey{d.svc.ServiceKey, d.conf.AddrPort()} }

func (t *trash) len() int { return len(t.list) - t.gaps }

func (t *trash) add(d *Dest) {
	d.trashed = len(t.list)
	t.list = append(t.list, d)
	if t.by == nil {
		t.by = map[trashKey][]*Dest{}
	}
	t.by[d.trashKey()] = append(t.by[d.trashKey()], d)
}

// first returns the one of a key that was there first, or nil.
func (t *trash) first(k trashKey) *Dest {
	if list := t.by[k]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// remove takes out one that is there.
func (t *trash) remove(d *Dest) {
	k := d.trashKey()
	if t.by[k] = slices.DeleteFunc(t.by[k], func(x *Dest) bool { return x == d }); len(t.by[k]) == 0 {
		delete(t.by, k)
	}
	t.list[d.trashed] = nil
	if t.gaps++; t.gaps > len(t.list)/2 {
		t.list = slices.DeleteFunc(t.list, func(x *Dest) bool { return x == nil })
		for i, x := range t.list {
			x.trashed = i
		}
		t.gaps = 0
	}
}

// all are those that are there, in order; they may be removed meanwhile.
func (t *trash) all() []*Dest {
	return slices.DeleteFunc(slices.Clone(t.list), func(d *Dest) bool { return d == nil })
}

// discard puts a destination into the trash, where it waits for its last
// connection, or to be added again (__ip_vs_del_dest).
func (ix *index) discard(d *Dest, now uint32) {
	ix.mirror.collectCounters(d)
	d.available, d.suspended = false, false
	ix.mirror.pushServer(d)
	d.idle = 0
	if ix.trash.len() == 0 {
		*ix.trashAt = now + trashPeriod/2
	}
	ix.trash.add(d)
}

// fromTrash takes a destination out of the trash that the service had before
// (ip_vs_trash_get_dest).
func (ix *index) fromTrash(s *Service, at netip.AddrPort) *Dest {
	d := ix.trash.first(trashKey{s.ServiceKey, at})
	if d != nil {
		ix.trash.remove(d)
	}
	return d
}

// emptyTrash drops what has had no connections for long enough and returns it
// (ip_vs_dest_trash_expire).
func (ix *index) emptyTrash(now uint32) (gone []*Dest) {
	if ix.trash.len() == 0 || int32(now-*ix.trashAt) < 0 {
		return nil
	}
	*ix.trashAt = now + trashPeriod/2
	for _, d := range ix.trash.all() {
		switch {
		case d.Bound() > 0 || d.Held():
		case d.idle == 0:
			d.idle = max(now, 1)
		case now-d.idle >= trashPeriod:
			ix.trash.remove(d)
			ix.dests[d.ID] = nil
			ix.free = append(ix.free, d.ID)
			gone = append(gone, d)
		}
	}
	return gone
}
