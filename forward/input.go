package forward

import (
	"time"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
	"github.com/ulvs/ulvs/persist"
)

// batchSize is how many frames are parsed and whose table lines are fetched
// before the first is decided.
const batchSize = 64

// scratch is the working memory of one Handle call.
type scratch struct {
	packets [batchSize]packet.Packet
	early   [batchSize]early
}

// early is what is found out about a packet before it is decided, so that the memory
// that it needs is being fetched.
type early struct {
	hash    uint64   // of its flow
	opens   bool     // it opens a connection
	service *Service // of a packet that does
	looked  bool     // for the service
	// replaces says that its flow has a connection, whose place the new one takes.
	replaces bool
	// If its service is persistent, the key of the template that it has, and its hash.
	templated bool
	key       persist.Key
	keyHash   uint64
}

// Handle implements dataplane.Handler: it is the way of a packet through the
// director, read from top to bottom in this file and then in schedule.go
// (net/netfilter/ipvs/ip_vs_core.c, ip_vs_in_hook).
func (in *Path) Handle(now time.Duration, batch []dataplane.Frame) {
	var s *scratch
	select {
	case s = <-in.scratch:
	default:
		s = new(scratch)
	}
	tick := tickOf(now)
	for len(batch) > 0 {
		n := min(len(batch), batchSize)
		in.handle(tick, batch[:n], s)
		batch = batch[n:]
	}
	select {
	case in.scratch <- s:
	default:
	}
}

func (in *Path) handle(tick uint32, batch []dataplane.Frame, s *scratch) {
	for i := range batch {
		p, e := &s.packets[i], &s.early[i]
		p.Parse(batch[i].Data)
		e.opens, e.looked, e.templated = false, false, false
		if p.Kind == packet.TCP || p.Kind == packet.UDP || p.Kind == packet.SCTP {
			e.hash, e.opens = in.conns.Hash(&p.Flow), opens(p)
		}
	}
	in.lock()
	defer in.unlock()
	in.locals, in.in = in.resolver.Locals(), link{}
	in.now.Store(tick)
	in.advance(tick)
	in.makeRoom()
	in.index.mirror.heartbeat(tick)
	var lines uint32
	for i := range batch {
		if e := &s.early[i]; e.opens {
			lines += in.conns.TouchNew(e.hash)
		} else {
			lines += in.conns.Touch(e.hash)
		}
	}
	templated := false
	for i := range batch {
		if e := &s.early[i]; e.opens {
			in.prefetch(&batch[i], &s.packets[i], e)
			templated = templated || e.templated
		}
	}
	// By itself, so that a processor has many of these loads under way.
	for i := 0; templated && i < len(batch); i++ {
		if e := &s.early[i]; e.templated {
			lines += in.templates.TouchNew(e.keyHash)
		}
	}
	in.touched = lines
	for i := range batch {
		in.frame(&batch[i], &s.packets[i], &s.early[i], tick)
	}
}

// prefetch looks for the service of a packet that opens a connection, and works out which
// template it has.
func (in *Path) prefetch(f *dataplane.Frame, p *packet.Packet, e *early) {
	e.service, e.looked = in.service(f, p, p), true
	s := e.service
	if s == nil || s.Persistence.Timeout == 0 {
		return
	}
	e.templated = true
	in.templateKey(s, &p.Flow, e)
}

// frame decides about one frame.
func (in *Path) frame(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) {
	in.crossings.count(f, p)
	if p.Refused != packet.Accepted {
		in.refused(f, p)
		return
	}
	switch p.Kind {
	case packet.TCP, packet.UDP, packet.SCTP:
		if p.FragOffset > 0 {
			if in.laterFragment(f, p, tick) {
				in.completeHeader(p, tick)
			}
			return
		}
		in.transport(f, p, e, tick)
		in.crossings.parks(f, e.opens)
	default:
		in.other(f, p, tick)
	}
}

// other decides about a packet without a transport header that services have.
func (in *Path) other(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	switch p.Kind {
	case packet.ICMP:
		in.icmp(f, p, tick)
	case packet.OtherIP:
		if isIPsec(p.Proto, p.Is6) {
			in.ipsec(f, p, tick)
		}
	case packet.ARP:
		in.arp(f, p)
	case packet.Damaged:
		if in.holdsHeader(f, p) {
			in.hold(f, p, tick)
			in.completeHeader(p, tick)
			return
		}
		in.drops[dropDamaged]++
		if in.damaged(f, p, tick); f.Verdict == dataplane.Pass && in.truncatedFirst(f, p) {
			f.Verdict = dataplane.Drop
		}
	}
}

// damaged decides about a packet that cannot be read to its end. Where only its transport
// header is cut off behind the ports, it still follows its connection
// (ip_vs_conn_fill_param_proto reads the ports alone). All else is for the
// host to count and drop.
func (in *Path) damaged(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	switch p.Damage {
	case packet.TruncatedTCP, packet.TruncatedUDP, packet.TruncatedSCTP:
	default:
		return
	}
	id, found := in.find(&p.Flow, in.conns.Hash(&p.Flow))
	if !found {
		return
	}
	dst := in.index.dests[in.conns.Dest(id)]
	if in.unhooked(f, dst, p) {
		return
	}
	if !dst.available {
		in.drop(f, dropDestGone)
		return
	}
	in.account(dst, p)
	in.conns.Touched(id, tick)
	in.transmit(f, p, dst, methodOf(in.conns.Owner(id)))
}

// transport decides about a packet that has ports.
func (in *Path) transport(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) {
	id, found := in.find(&p.Flow, e.hash)
	if !found {
		in.begin(f, p, e, tick)
		return
	}
	if in.conns.Crossing(id) {
		in.crossings.handed(id, f, e.opens)
	}
	dst := in.index.dests[in.conns.Dest(id)]
	over := e.opens && in.reschedules(id, dst)
	switch {
	case dst.available:
	case in.unhooked(f, dst, p):
		return
	case !over && in.sysctl.ExpireNodestConn == 0:
		in.drop(f, dropDestGone)
		return
	default:
		over = true
	}
	if over {
		// It counts until its timer runs out a moment later, and so it does
		// while the scheduler chooses (ip_vs_conn_expire_now).
		in.conns.Hide(id)
		e.replaces = true
		in.begin(f, p, e, tick)
		e.replaces = false
		in.removeConn(id)
		return
	}
	in.account(dst, p)
	in.state(id, dst, p, tick)
	in.transmit(f, p, dst, methodOf(in.conns.Owner(id)))
	if p.Fragment {
		in.firstFragment(f, p, dst, tick)
	}
}

// begin decides about a packet without a connection.
func (in *Path) begin(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) {
	id, dst, done := in.schedule(f, p, e, tick)
	if dst == nil {
		in.hostFragment(f, p, tick)
		return
	}
	in.account(dst, p)
	if !done {
		in.state(id, dst, p, tick)
	}
	in.transmit(f, p, dst, dst.conf.Forward)
	if p.Fragment {
		in.firstFragment(f, p, dst, tick)
	}
}

// opens reports whether a packet opens a connection (is_new_conn).
func opens(p *packet.Packet) bool {
	switch p.Kind {
	case packet.TCP:
		return p.TCPFlags&packet.SYN != 0
	case packet.SCTP:
		return p.HasChunk && p.Chunk == sctpInit
	}
	return false
}

const (
	sctpInit  = 1
	sctpAbort = 6
)

// reschedules reports whether a packet that opens a connection shall not go on
// with the one that has its ports: because its server is quiescent, with
// expire_nodest_conn; or because it is over, with conn_reuse_mode, unless a
// template controls it (is_new_conn_expected).
func (in *Path) reschedules(id conn.ID, dst *Dest) bool {
	if in.sysctl.ExpireNodestConn != 0 && dst.Quiescent() {
		return true
	}
	mode := in.sysctl.ConnReuseMode
	return mode != 0 && in.conns.Template(id) == 0 && in.conns.Over(id, mode&2 != 0)
}

// state brings the connection into the state that the packet asks for
// (ip_vs_set_state).
func (in *Path) state(id conn.ID, dst *Dest, p *packet.Packet, tick uint32) {
	var c conn.Change
	switch p.Kind {
	case packet.TCP:
		c = in.conns.TCP(id, p.TCPFlags, tick)
	case packet.SCTP:
		chunk := p.Chunk
		if p.HasNextChunk && p.NextChunk == sctpAbort {
			chunk = sctpAbort
		}
		c = in.conns.SCTP(id, chunk, tick)
	default:
		in.conns.UDP(id, tick)
		return
	}
	if c.Activated {
		dst.Activate(true)
	}
	if c.Deactivated {
		dst.Activate(false)
	}
	if c.Established {
		in.assure(id)
	}
}

// assure tells a connection's template that the connection was established.
func (tb *tables) assure(id conn.ID) {
	if t := tb.conns.Template(id); t != 0 {
		tb.templates.Assure(persist.ID(t - 1))
	}
}
