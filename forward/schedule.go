package forward

import (
	"encoding/binary"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// scheduling gives a packet without a connection a real server and a connection.
type scheduling struct{ fragmenter }

// attempt is a packet that wants a connection.
type attempt struct {
	f    *dataplane.Frame
	p    *packet.Packet // what is scheduled: the packet, or the one that an ICMP error quotes
	hash uint64
	tick uint32
	// early is what prefetch found, or nil.
	early *early
	// oneShot: the service schedules each packet by itself; no connection.
	oneShot bool
	// syn: it opens a TCP connection, and has made its state.
	syn bool
	// quoted: p is not what f carries, and nobody is told if it goes wrong.
	quoted bool
}

// schedule gives a packet without a connection a real server and a connection
// (ip_vs_try_to_schedule, tcp_conn_schedule and its siblings, ip_vs_schedule).
// A nil destination means that the frame's verdict is said. done means that the packet
// moves no state: it has made its connection's, or has no connection.
func (sc *scheduling) schedule(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) (id conn.ID, dst *Dest,
	done bool) {
	if p.Kind == packet.SCTP && !p.HasChunk {
		sc.drop(f, dropDamaged) // sctp_conn_schedule: no ports without a chunk
		return 0, nil, false
	}
	s := e.service
	if !e.looked {
		s = sc.service(f, p, p)
	}
	if s == nil || !sc.startsConn(p) || sc.martian(p) {
		sc.passToHost(f, p, s)
		return 0, nil, false
	}
	if sc.defense.todrop() {
		sc.drop(f, dropDefense)
		return 0, nil, false
	}
	// Active FTP's data comes from the server; it is never scheduled.
	if p.Flow.ClientPort() == FTPDataPort {
		sc.passToHost(f, p, s)
		return 0, nil, false
	}
	a := attempt{
		f: f, p: p, hash: e.hash, tick: tick, early: e,
		oneShot: s.OnePacket && p.Kind == packet.UDP, syn: p.Kind == packet.TCP && p.TCPFlags&packet.SYN != 0,
	}
	id, dst = sc.serve(s, &a)
	return id, dst, a.oneShot || a.syn
}

// scheduleQuoted opens the connection that an ICMP error is about
// (ip_vs_in_icmp with schedule_icmp). The mark is the error's own. Its results are
// schedule's.
func (sc *scheduling) scheduleQuoted(f *dataplane.Frame, p *packet.Packet, hash uint64, tick uint32) (id conn.ID,
	dst *Dest, oneShot bool) {
	q := packet.Packet{Proto: p.Quoted.Proto, Is6: p.Quoted.Is6, Flow: p.Quoted.Flow}
	switch ulvs.Protocol(q.Proto) {
	case ulvs.TCP:
		q.Kind = packet.TCP
	case ulvs.UDP:
		q.Kind = packet.UDP
	case ulvs.SCTP:
		q.Kind = packet.SCTP
	default:
		return 0, nil, false
	}
	s := sc.service(f, p, &q)
	if s == nil || q.Flow.ClientPort() == FTPDataPort {
		return 0, nil, false
	}
	a := attempt{f: f, p: &q, hash: hash, tick: tick, quoted: true, oneShot: s.OnePacket && q.Kind == packet.UDP}
	id, dst = sc.serve(s, &a)
	return id, dst, a.oneShot
}

// serve has a service choose a real server.
func (sc *scheduling) serve(s *Service, a *attempt) (id conn.ID, dst *Dest) {
	if s.Persistence.Timeout != 0 {
		id, dst = sc.persistent(s, a)
	} else {
		id, dst = sc.plain(s, a)
	}
	if dst != nil {
		sc.countOpened(s, a, id, dst)
	}
	return id, dst
}

// startsConn reports whether a packet may be scheduled at all
// (tcp_conn_schedule, sctp_conn_schedule).
func (sc *scheduling) startsConn(p *packet.Packet) bool {
	switch p.Kind {
	case packet.TCP:
		return p.TCPFlags&packet.RST == 0 && (p.TCPFlags&packet.SYN != 0 || sc.sysctl.SloppyTCP != 0)
	case packet.SCTP:
		return p.HasChunk && p.Chunk != sctpAbort && (p.Chunk == sctpInit || sc.sysctl.SloppySCTP != 0)
	}
	return true
}

// link is an interface.
type link struct {
	index int
	name  string
}

// virtualAddr and clientAddr are a flow's addresses as packed bytes.
func virtualAddr(f *packet.Flow, is6 bool, to *[16]byte) {
	if is6 {
		binary.NativeEndian.PutUint64(to[:8], f[3])
		binary.NativeEndian.PutUint64(to[8:], f[4])
		return
	}
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], f[0])
	copy(to[:4], b[4:])
}

func clientAddr(f *packet.Flow, is6 bool, to *[16]byte) {
	binary.NativeEndian.PutUint64(to[:8], f[0])
	if is6 {
		binary.NativeEndian.PutUint64(to[8:], f[2])
	} else {
		clear(to[4:8])
	}
}

// pick asks the service's scheduler (ip_vs_scheduler.schedule).
func (sc *scheduling) pick(s *Service, a *attempt) *Dest {
	if s.flipped { // by a packet before, of the same batch
		sc.opener.shut(s)
	}
	if s.usesPicks {
		sc.opener.markLow(s)
		if c, ok := s.picks.Take(); ok {
			return sc.index.dests[c.Dest]
		}
	}
	r := &sc.request
	if s.positioned == nil {
		sc.describe(a)
	}
	chosen := s.scheduler.Schedule(r)
	sc.index.mirror.savePosition(s)
	if chosen == nil {
		return nil
	}
	return sc.index.dests[chosen.ID]
}

// describe says who asks, for schedulers that want to know.
func (sc *scheduling) describe(a *attempt) {
	p := a.p
	r := &sc.request
	*r = sched.Request{
		ClientPort: p.Flow.ClientPort(), VirtualPort: p.Flow.VirtualPort(),
		Proto: p.Proto, IPv6: p.Is6, Now: time.Duration(a.tick) * (time.Second / hz),
	}
	clientAddr(&p.Flow, p.Is6, &r.Client)
	virtualAddr(&p.Flow, p.Is6, &r.Virtual)
	if a.quoted {
		// Schedulers that go by the destination take the quoted packet's own,
		// which is the client (ip_vs_dh_schedule and its like do not ask for
		// the inverse).
		r.Virtual = r.Client
	}
}

// plain schedules without persistence (ip_vs_schedule).
func (sc *scheduling) plain(s *Service, a *attempt) (conn.ID, *Dest) {
	if s.Mark == 0 && a.p.Flow.VirtualPort() != s.Port {
		sc.leave(s, a)
		return 0, nil
	}
	dst := sc.pick(s, a)
	if dst == nil {
		sc.leave(s, a)
		return 0, nil
	}
	if a.oneShot {
		return 0, dst.once()
	}
	return sc.connect(a, dst, 0, dst.conf.Port != 0)
}

// persistent schedules by template (ip_vs_sched_persist).
func (sc *scheduling) persistent(s *Service, a *attempt) (conn.ID, *Dest) {
	own := a.p.Flow.VirtualPort() == s.Port
	e := a.early
	if e == nil || !e.templated {
		e = new(early)
		sc.templateKey(s, &a.p.Flow, e)
	}
	key, hash := &e.key, e.keyHash
	var call []byte
	if s.Persistence.Engine != "" {
		// Only UDP messages with a Call-ID are served (ip_vs_sip_fill_param).
		var ok bool
		if call, ok = callID(a); !ok {
			sc.drop(a.f, dropEngine)
			return 0, nil
		}
		of := key.With(call)
		key, hash = &of, sc.templates.Hash(&of)
	}
	ct, found := sc.findTemplate(key, hash)
	var dst *Dest
	if found {
		dst = sc.index.dests[sc.templates.Dest(ct)]
		if !dst.available || sc.sysctl.ExpireQuiescentTemplate != 0 && dst.Quiescent() {
			sc.templates.Invalidate(ct)
			found = false
		}
	}
	if !found {
		if dst = sc.pick(s, a); dst == nil {
			sc.leave(s, a)
			return 0, nil
		}
		var err error
		ct, err = sc.templates.Insert(key, hash, dst.ID, s.Persistence.Timeout, a.tick)
		for tries := 0; err != nil && tries < evictTries && sc.roomForTemplate(); tries++ {
			ct, err = sc.templates.Insert(key, hash, dst.ID, s.Persistence.Timeout, a.tick)
		}
		if err != nil && sc.spareTemplate(a.tick) {
			sc.templates.KeepSpare(0)
			ct, err = sc.templates.Insert(key, hash, dst.ID, s.Persistence.Timeout, a.tick)
			sc.templates.KeepSpare(sc.spareTemplates.n)
		}
		if err != nil {
			sc.drop(a.f, dropTemplatesFull)
			return 0, nil
		}
		dst.Bind(true, false)
		if call != nil {
			sc.templates.Describe(ct, e.key, s.Persistence.Engine, call)
		}
	}
	if found && call != nil && !sc.templates.Described(ct) {
		sc.templates.Describe(ct, e.key, s.Persistence.Engine, call)
	}
	if a.oneShot {
		sc.templates.Control(ct, a.tick)
		sc.templates.Counted(ct)
		sc.templates.Release(ct, sc.templates.Packets(ct) > 1)
		return 0, dst.once()
	}
	id, dst := sc.connect(a, dst, uint32(ct)+1, own && dst.conf.Port != 0)
	if dst != nil {
		sc.templates.Control(ct, a.tick)
	}
	return id, dst
}

// callID returns what the engine finds in the packet.
func callID(a *attempt) ([]byte, bool) {
	const udpHeader = 8
	if a.p.Kind != packet.UDP || a.quoted || a.p.L4+udpHeader >= a.p.End {
		return nil, false
	}
	return persist.CallID(a.f.Data[a.p.L4+udpHeader : a.p.End])
}

// connect inserts the connection (ip_vs_conn_new). It is inactive until its
// first state says otherwise, which that of a SYN does here. destPort says that it is
// listed with its real server's port.
func (sc *scheduling) connect(a *attempt, dst *Dest, template uint32, destPort bool) (id conn.ID, chosen *Dest) {
	var c conn.Change
	var err error
	owner := ownerBits(destPort, dst.conf.Forward)
	if a.syn { // insert, without a call
		id, c, err = sc.conns.InsertSYN(&a.p.Flow, a.hash, dst.ID, template, a.tick, owner)
	} else {
		id, err = sc.conns.Insert(&a.p.Flow, a.hash, dst.ID, template, a.tick, owner)
	}
	if err != nil && sc.conns.Len() >= sc.conns.Max() && sc.evictHalfOpen(0) {
		id, c, err = sc.insert(a, dst, template, owner) // or its slot is in quarantine
	}
	if err != nil && sc.spareConn(a.tick) {
		sc.conns.KeepSpare(0)
		id, c, err = sc.insert(a, dst, template, owner)
		sc.conns.KeepSpare(sc.spareConns.n)
	}
	if err != nil {
		sc.drop(a.f, dropConnsFull)
		return 0, nil
	}
	dst.Bind(false, c.Activated)
	sc.crossings.inserted(id, a.p)
	return id, dst
}

func (sc *scheduling) insert(a *attempt, dst *Dest, template uint32, owner uint8) (conn.ID, conn.Change, error) {
	if a.syn {
		return sc.conns.InsertSYN(&a.p.Flow, a.hash, dst.ID, template, a.tick, owner)
	}
	id, err := sc.conns.Insert(&a.p.Flow, a.hash, dst.ID, template, a.tick, owner)
	return id, conn.Change{}, err
}

// leave ends a packet of a service without a usable real server, and tells the client
// (ip_vs_leave).
func (sc *scheduling) leave(s *Service, a *attempt) {
	if s.Port == FTPPort && a.p.Flow.VirtualPort() != FTPPort {
		if !a.quoted {
			sc.passToHost(a.f, a.p, s)
		}
		return
	}
	sc.drop(a.f, dropNoServer)
	if !a.quoted {
		sc.unreachable(a.f, a.p, packet.PortUnreachable)
	}
}

// drop ends a frame. An answer may follow.
func (r *responder) drop(f *dataplane.Frame, cause int) {
	r.drops[cause]++
	f.Verdict = dataplane.Drop
}
