package forward

import (
	"net/netip"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/svctable"
	"github.com/ulvs/ulvs/packet"
)

// After a service was deleted, packets of the connections that are left are dropped without
// a word, as long as another service of the family is there, whose hooks IPVS has
// (ip_vs_ctl.c, __ip_vs_del_service). So such a service's packets stay claimed, and those
// without a connection are given to the host.

// unhooked reports whether the family of a packet's connection has no service any more: then the
// packet is the host's. Where the service is away it is nobody's: the host may have the address
// again a moment before that is known here, and would reset the connection.
func (r *responder) unhooked(f *dataplane.Frame, dst *Dest, p *packet.Packet) bool {
	switch {
	case dst.available:
		return false
	case dst.suspended:
		r.drop(f, dropAway)
		return true
	}
	return r.index.served[family(p.Is6)] == 0
}

// leave notes a service that is gone but for its connections, where the plane has a way to
// give the host what it withholds.
func (tb *tables) leave(s *Service) {
	if !tb.plane.Injects() || len(s.dests) == 0 {
		return
	}
	ix := &tb.index
	if s.Mark != 0 {
		ix.leaving.AddMark(s.Mark, s.IPv6, s)
		return
	}
	k := tableKey(s.ServiceKey)
	if ix.leaving.Find(k) == nil {
		ix.leavingAt[Endpoint{s.Addr, uint8(s.Protocol)}]++
	}
	ix.leaving.Add(k, s)
}

// settleLeaving forgets the services whose last connection has ended, and reports whether
// there were any.
func (ix *index) settleLeaving() (settled bool) {
	if ix.leaving.Len() == 0 {
		return false
	}
	held := map[ulvs.ServiceKey]bool{}
	for _, d := range ix.trash.list {
		if d != nil && d.Bound() > d.PersistConns() {
			held[d.svc.ServiceKey] = true
		}
	}
	var over []*Service
	for s := range ix.leaving.Each {
		if !held[s.ServiceKey] {
			over = append(over, s)
		}
	}
	for _, s := range over {
		if s.Mark != 0 {
			ix.leaving.RemoveMark(s.Mark, s.IPv6)
		} else {
			ix.leaving.Remove(tableKey(s.ServiceKey))
			release(ix.leavingAt, Endpoint{s.Addr, uint8(s.Protocol)})
		}
	}
	return len(over) > 0
}

// leavingClaims adds the claims of services that are gone but for their connections.
func (ix *index) leavingClaims(c *dataplane.Claims) {
	ix.settleLeaving()
	for s := range ix.leaving.Each {
		if ix.served[family(s.Is6())] == 0 {
			continue
		}
		for _, one := range s.Claim() {
			one.Service = dataplane.Undecided
			c.Services = append(c.Services, one)
		}
		c.Services = append(c.Services, ix.leavingMarkClaims(s)...)
	}
	if ix.served[0] > 0 {
		c.Marks4 = append(c.Marks4, ix.leaving.Marks(false)...)
	}
	if ix.served[1] > 0 {
		c.Marks6 = append(c.Marks6, ix.leaving.Marks(true)...)
	}
}

// leavingMarkClaims are the claims of what follows the ISAKMP connections of a service by
// mark.
func (ix *index) leavingMarkClaims(s *Service) (claims []dataplane.Claim) {
	set := ix.sets[family(s.Is6())]
	if s.Mark == 0 || set == nil {
		return nil
	}
	for _, a := range set.Destinations([]uint32{s.Mark}) {
		if !ix.markISAKMP[a] && ix.isakmpMark(a) == s.Mark {
			claims = append(claims, isakmpClaims(a)...)
		}
	}
	for i := range claims {
		claims[i].Service = dataplane.Undecided
	}
	return claims
}

// leavingClaimed is claimed for services that are gone but for their connections.
func (r *responder) leavingClaimed(f *dataplane.Frame, to netip.Addr, p *packet.Packet) bool {
	ix := &r.index
	if ix.leaving.Len() == 0 || ix.served[family(p.Is6)] == 0 {
		return false
	}
	if claimedIn(ix.leaving, to, p) {
		return true
	}
	mark := r.mark(f, p)
	return mark != 0 && balanced(p.Proto) && ix.leaving.FindMark(mark, p.Is6) != nil
}

// leavingFragment reports whether a later fragment is among those claims.
func (r *responder) leavingFragment(f *dataplane.Frame, p *packet.Packet) bool {
	ix := &r.index
	if ix.leaving.Len() == 0 || ix.served[family(p.Is6)] == 0 {
		return false
	}
	if ix.leavingAt[Endpoint{p.Dest(), p.Proto}] > 0 {
		return true
	}
	mark := r.mark(f, p)
	return mark != 0 && ix.leaving.FindMark(mark, p.Is6) != nil
}

// claimedIn reports whether a packet to an address is one of a table's services by address.
func claimedIn(t *svctable.Table[Service], to netip.Addr, p *packet.Packet) bool {
	k := svctable.KeyOf(to, p.Proto, p.Flow.VirtualPort())
	if t.Find(k) != nil {
		return true
	}
	data := svctable.FTPData(k.Port, k.Proto)
	if k.Port = 0; t.Find(k) != nil {
		return true
	}
	k.Port = FTPPort
	ftp := t.Find(k)
	return data && ftp != nil && ftp.FTP()
}
