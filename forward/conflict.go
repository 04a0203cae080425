package forward

import (
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// Conflict is another host that says it has a virtual address which is served here.
type Conflict struct {
	Addr netip.Addr
	MAC  dataplane.MAC
	In   int // the interface
}

// mostConflicts bounds those that nobody has asked for yet.
const mostConflicts = 64

// hears notes who says that he has a virtual address.
func (r *responder) hears(f *dataplane.Frame, p *packet.Packet) {
	a, mac, ok := p.Claimed(f.Data)
	if !ok || !r.isVIP(a) || len(r.conflicts) >= mostConflicts {
		return
	}
	if own, known := r.resolver.LinkAddr(f.In); known && mac == own {
		return
	}
	c := Conflict{a, mac, f.In}
	if !slices.Contains(r.conflicts, c) {
		r.conflicts = append(r.conflicts, c)
	}
}

// Conflicts returns those that were noted since it was asked last.
func (up *Upkeep) Conflicts() (list []Conflict) {
	up.lock()
	defer up.unlock()
	list, up.conflicts = up.conflicts, nil
	return list
}

// Confirm counts a conflict, if it is one still: the address is served, and who answers is none of
// this host's own interfaces.
func (up *Upkeep) Confirm(c Conflict) bool {
	if plane, follows := up.plane.(dataplane.Following); c.MAC == up.mac ||
		follows && slices.ContainsFunc(plane.Links(), func(l dataplane.Link) bool { return l.MAC == c.MAC }) {
		return false
	}
	up.lock()
	defer up.unlock()
	if !up.isVIP(c.Addr) {
		return false
	}
	up.conflicting++
	return true
}

// CountVirtual returns how many virtual addresses there are.
func (up *Upkeep) CountVirtual() int {
	up.lock()
	defer up.unlock()
	return len(up.index.vips) + len(up.index.markVIPs)
}

// Virtual appends the virtual addresses that are served now to an empty list, sorted.
func (up *Upkeep) Virtual(list []netip.Addr) []netip.Addr {
	up.lock()
	defer up.unlock()
	return up.index.virtual(list, up.awayFrom)
}

// announceTimes is how often an address is announced at once, as keepalived does by default
// (vrrp_garp_master_repeat).
const announceTimes = 5

// Announce tells the neighbours that the director answers for addresses.
func (up *Upkeep) Announce(list []netip.Addr) {
	for range announceTimes {
		for _, a := range list {
			up.broadcast(func(l dataplane.Link) ([]byte, bool) {
				mac := l.MAC
				if up.mac != (dataplane.MAC{}) {
					mac = up.mac
				}
				return packet.Announcement(a, mac), true
			})
		}
	}
}

// Ask asks on each of the plane's networks who has an address.
func (up *Upkeep) Ask(a netip.Addr) {
	up.broadcast(func(l dataplane.Link) ([]byte, bool) {
		from := up.resolver.Source(l.Index, a)
		if a.Is4() || from == a {
			// A host answers that though its table of neighbours is full (arp_process). From a, it
			// would be an announcement.
			from = netip.Addr{}
		}
		return packet.Question(a, from, l.MAC)
	})
}

// broadcast sends a frame of the director's own by each of the plane's interfaces.
func (up *Upkeep) broadcast(frame func(dataplane.Link) (data []byte, ok bool)) {
	plane, follows := up.plane.(dataplane.Following)
	if !follows {
		return
	}
	for _, l := range plane.Links() {
		if !l.There() || !l.Up || !l.Ethernet {
			continue
		}
		if data, ok := frame(l); ok {
			up.plane.Send(&dataplane.Frame{Data: data, In: l.Index, Verdict: dataplane.Transmit})
		}
	}
}
