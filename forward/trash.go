package forward

import (
	"net/netip"
	"slices"
)

// trashPeriod is how long a destination without connections stays in the
// trash after that was noticed (IP_VS_DEST_TRASH_PERIOD).
const trashPeriod = 120 * hz

// discard puts a destination into the trash, where it waits for its last
// connection, or to be added again (__ip_vs_del_dest).
func (ix *index) discard(d *Dest, now uint32) {
	ix.mirror.collectCounters(d)
	d.available = false
	ix.mirror.pushServer(d)
	d.idle = 0
	if len(ix.trash) == 0 {
		*ix.trashAt = now + trashPeriod/2
	}
	ix.trash = append(ix.trash, d)
}

// fromTrash takes a destination out of the trash that the service had before
// (ip_vs_trash_get_dest).
func (ix *index) fromTrash(s *Service, at netip.AddrPort) *Dest {
	for i, d := range ix.trash {
		if d.conf.AddrPort() == at && d.svc.ServiceKey == s.ServiceKey {
			ix.trash = slices.Delete(ix.trash, i, i+1)
			return d
		}
	}
	return nil
}

// emptyTrash drops what has had no connections for long enough and returns it
// (ip_vs_dest_trash_expire).
func (ix *index) emptyTrash(now uint32) (gone []*Dest) {
	if len(ix.trash) == 0 || int32(now-*ix.trashAt) < 0 {
		return nil
	}
	*ix.trashAt = now + trashPeriod/2
	ix.trash = slices.DeleteFunc(ix.trash, func(d *Dest) bool {
		switch {
		case d.Bound() > 0 || d.Held():
			return false
		case d.idle == 0:
			d.idle = max(now, 1)
			return false
		case now-d.idle < trashPeriod:
			return false
		}
		ix.dests[d.ID] = nil
		ix.free = append(ix.free, d.ID)
		gone = append(gone, d)
		return true
	})
	return gone
}
