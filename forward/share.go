package forward

import (
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/svctable"
	"github.com/ulvs/ulvs/packet"
)

// cause is why Go has opened a connection, where the plane opens some by itself.
type cause uint8

// Of several causes the first one counts.
const (
	causeICMP cause = iota
	causeFragment
	causeReused
	causeService
	causeDefense
	causeFull
	causeSource
	causeMark
	causeFTP
	causeLimit
	causeHop
	causeOther
	causes
)

// causeNames are the names in Counters.
var causeNames = [causes]string{
	causeICMP:     "opened_in_go_icmp",     // quoted by an error (schedule_icmp)
	causeFragment: "opened_in_go_fragment", // the first one of a datagram
	causeReused:   "opened_in_go_reused",   // conn_reuse_mode, expire_nodest_conn
	causeService:  "opened_in_go_service",  // opener.openable says why
	causeDefense:  "opened_in_go_defense",  // drop_packet, secure_tcp
	causeFull:     "opened_in_go_full",     // a table nearly full, or no slot left for programs
	causeSource:   "opened_in_go_source",   // maybe an address of the host's own
	causeMark:     "opened_in_go_mark",     // it depends on what programs do not look at
	causeFTP:      "opened_in_go_ftp",      // maybe its data connection
	causeLimit:    "opened_in_go_limit",    // a real server at its upper threshold
	causeHop:      "opened_in_go_hop",      // the real server's link address is not known
	causeOther:    "opened_in_go_other",
}

// share is who has opened a service's connections since it was added, or the process began.
type share struct{ byPlane, inGo uint64 }

// Undecided are the endpoints to some of whose ports the mark of a packet depends on more than its
// destination, with their outcomes.
type Undecided map[Endpoint][]fwmark.Outcome

// SetUndecided says for which packets marks depend on more than their destination, as far as
// rules or services name that.
func (cm *Commands) SetUndecided(u Undecided) {
	cm.lock()
	defer cm.unlock()
	cm.undecided = u
}

// countOpened counts a connection that Go has opened, or a packet that is one by itself: at the service that
// the packet is of, and at the real server, which may be another one's (opener.openedBy).
func (sc *scheduling) countOpened(s *Service, a *attempt, id conn.ID, dst *Dest) {
	dst.Conns++
	s.Conns++
	s.inGo++
	if o := sc.opener; o.begun {
		o.inGo[sc.cause(s, a, id, dst)]++
	}
}

// cause says why the plane has not opened a connection that Go has: as far as the tables know
// that by now.
func (sc *scheduling) cause(s *Service, a *attempt, id conn.ID, dst *Dest) cause {
	o, p := sc.opener, a.p
	switch {
	case a.quoted:
		return causeICMP
	case p.Fragment:
		return causeFragment
	case a.early.replaces:
		return causeReused
	case s.unopened || o.roomless.services[s]:
		return causeService
	case sc.defense.rate != 0 || sc.conns.Secure():
		return causeDefense
	case o.full || !o.open.Templates && s.Persistence.Timeout != 0:
		return causeFull
	case sc.locals.May(p.Flow.ClientFold(), p.Is6):
		return causeSource
	case sc.marksDepend(s, a.f, p):
		return causeMark
	case sc.ftpConcerns(s, p):
		return causeFTP
	case s.flipped:
		return causeLimit
	case dst.unresolved():
		return causeHop
	case !a.oneShot && o.connSlots.Wanting(uint32(id)):
		return causeFull
	}
	return causeOther
}

// ftpConcerns reports whether programs leave a packet to Go because it may be of a data connection of FTP,
// to which the service of every port, or that of a mark, is not what decides.
func (sc *scheduling) ftpConcerns(s *Service, p *packet.Packet) bool {
	port := p.Flow.VirtualPort()
	if s.Mark == 0 {
		return s.Port == FTPPort && port != FTPPort
	}
	return svctable.FTPData(port, p.Proto) &&
		sc.index.find(ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: p.Dest(), Port: FTPPort}) != nil
}

// marksDepend reports whether programs cannot tell the mark of a packet: it depends on more than they
// look at, or rules name no destination.
func (sc *scheduling) marksDepend(s *Service, f *dataplane.Frame, p *packet.Packet) bool {
	if !sc.index.ruled[family(p.Is6)] {
		return false
	}
	to := p.Dest()
	if s.Mark != 0 && (sc.standby.Virtual || !sc.index.isVirtual(to)) {
		return true
	}
	list := sc.undecided[Endpoint{to, p.Proto}]
	n, _ := slices.BinarySearchFunc(list, p.Flow.VirtualPort(), func(o fwmark.Outcome, port uint16) int {
		return int(o.Last) - int(port)
	})
	switch {
	case n == len(list) || list[n].Certain:
		return false
	case len(list[n].Steps) == 0 || sc.standby.Virtual: // programs have no list then
		return true
	}
	_, decided := fwmark.Follow(list[n].Steps, fwmark.InputsOf(p, uint32(f.In)))
	return !decided
}

// shareOf returns who has opened a service's connections, where the plane opens some.
func (o *opener) shareOf(s *Service) (n ulvs.Opened) {
	if !o.begun {
		return n
	}
	n = ulvs.Opened{ByPlane: s.byPlane, InGo: s.inGo}
	for _, d := range s.dests {
		n.ByPlane += o.index.mirror.uncollected(d)
	}
	return n
}
