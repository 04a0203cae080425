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
	"github.com/ulvs/ulvs/service"
)

// attempt is a packet that wants a connection.
type attempt struct {
	f    *dataplane.Frame
	p    *packet.Packet // what is scheduled: the packet, or the one that an ICMP error quotes
	hash uint64
	tick uint32
	// early is what is known of it already, or nil.
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
func (d *Path) schedule(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) (id conn.ID, dst *Dest, done bool) {
	if p.Kind == packet.SCTP && !p.HasChunk {
		d.drop(f, dropDamaged) // sctp_conn_schedule: no ports without a chunk
		return 0, nil, false
	}
	s := e.service
	if !e.looked {
		s = d.service(f, p, p)
	}
	if s == nil || !d.startsConn(p) || d.martian(p) {
		d.passToHost(f, p, s)
		return 0, nil, false
	}
	if d.defense.todrop() {
		d.drop(f, dropDefense)
		return 0, nil, false
	}
	// Active FTP's data comes from the server; it is never scheduled.
	if p.Flow.ClientPort() == ftpDataPort {
		d.passToHost(f, p, s)
		return 0, nil, false
	}
	a := attempt{
		f: f, p: p, hash: e.hash, tick: tick, early: e,
		oneShot: s.OnePacket && p.Kind == packet.UDP, syn: p.Kind == packet.TCP && p.TCPFlags&packet.SYN != 0,
	}
	id, dst = d.serve(s, &a)
	return id, dst, a.oneShot || a.syn
}

// scheduleQuoted opens the connection that an ICMP error is about
// (ip_vs_in_icmp with schedule_icmp). The mark is the error's own. Its results are
// schedule's.
func (d *Path) scheduleQuoted(f *dataplane.Frame, p *packet.Packet, hash uint64, tick uint32) (id conn.ID, dst *Dest, oneShot bool) {
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
	s := d.service(f, p, &q)
	if s == nil || q.Flow.ClientPort() == ftpDataPort {
		return 0, nil, false
	}
	a := attempt{f: f, p: &q, hash: hash, tick: tick, quoted: true, oneShot: s.OnePacket && q.Kind == packet.UDP}
	id, dst = d.serve(s, &a)
	return id, dst, a.oneShot
}

// serve lets a service choose.
func (d *Path) serve(s *Service, a *attempt) (id conn.ID, dst *Dest) {
	if s.Persistence.Timeout != 0 {
		id, dst = d.persistent(s, a)
	} else {
		id, dst = d.plain(s, a)
	}
	if dst != nil {
		dst.Conns++
		dst.svc.Conns++
	}
	return id, dst
}

// startsConn reports whether a packet may be scheduled at all
// (tcp_conn_schedule, sctp_conn_schedule).
func (d *Path) startsConn(p *packet.Packet) bool {
	switch p.Kind {
	case packet.TCP:
		return p.TCPFlags&packet.RST == 0 && (p.TCPFlags&packet.SYN != 0 || d.sysctl.SloppyTCP != 0)
	case packet.SCTP:
		return p.HasChunk && p.Chunk != sctpAbort && (p.Chunk == sctpInit || d.sysctl.SloppySCTP != 0)
	}
	return true
}

// service is the Service service of a packet or, when it is an ICMP error, of
// the packet of that it quotes. The mark is worked out here, as a connection's
// packets do not need it.
func (d *Path) service(f *dataplane.Frame, p, of *packet.Packet) *Service {
	mark := d.mark(f, p)
	if !of.Is6 {
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], of.Flow[0])
		return d.table.LookupIPv4(binary.BigEndian.Uint32(b[4:]), of.Flow.VirtualPort(), of.Proto, mark)
	}
	k := service.Key{Port: of.Flow.VirtualPort(), Proto: of.Proto, IPv6: of.Is6}
	virtualAddr(&of.Flow, of.Is6, &k.Addr)
	return d.table.Lookup(k, mark)
}

// link is an interface.
type link struct {
	index int
	name  string
}

// mark is the firewall mark that the rules give a packet.
func (d *Path) mark(f *dataplane.Frame, p *packet.Packet) uint32 {
	set := d.table.sets[family(p.Is6)]
	if set == nil {
		return 0
	}
	if f.In != d.in.index {
		d.in = link{f.In, d.resolver.LinkName(f.In)}
	}
	return set.Mark(p, d.in.name)
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
func (d *Path) pick(s *Service, a *attempt) *Dest {
	if s.usesPicks {
		d.opener.markLow(s)
		if c, ok := s.picks.Take(); ok {
			return d.table.dests[c.Dest]
		}
	}
	r := &d.request
	if s.positioned == nil {
		d.describe(a)
	}
	chosen := s.scheduler.Schedule(r)
	d.table.mirror.savePosition(s)
	if chosen == nil {
		return nil
	}
	return d.table.dests[chosen.ID]
}

// describe says who asks, for schedulers that want to know.
func (d *Path) describe(a *attempt) {
	p := a.p
	r := &d.request
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

// plain is scheduling without persistence (ip_vs_schedule).
func (d *Path) plain(s *Service, a *attempt) (conn.ID, *Dest) {
	if s.Mark == 0 && a.p.Flow.VirtualPort() != s.Port {
		d.leave(s, a)
		return 0, nil
	}
	dst := d.pick(s, a)
	if dst == nil {
		d.leave(s, a)
		return 0, nil
	}
	if a.oneShot {
		return 0, dst.once()
	}
	return d.connect(a, dst, 0, dst.conf.Port != 0)
}

// persistent is scheduling by template (ip_vs_sched_persist).
func (d *Path) persistent(s *Service, a *attempt) (conn.ID, *Dest) {
	own := a.p.Flow.VirtualPort() == s.Port
	e := a.early
	if e == nil || !e.templated {
		e = new(early)
		d.templateKey(s, &a.p.Flow, e)
	}
	key, hash := &e.key, e.keyHash
	var call []byte
	if s.Persistence.Engine != "" {
		// Only UDP messages with a Call-ID are served (ip_vs_sip_fill_param).
		var ok bool
		if call, ok = callID(a); !ok {
			d.drop(a.f, dropEngine)
			return 0, nil
		}
		of := key.With(call)
		key, hash = &of, d.templates.Hash(&of)
	}
	ct, found := d.findTemplate(key, hash)
	var dst *Dest
	if found {
		dst = d.table.dests[d.templates.Dest(ct)]
		if !dst.available || d.sysctl.ExpireQuiescentTemplate != 0 && dst.Quiescent() {
			d.templates.Invalidate(ct)
			found = false
		}
	}
	if !found {
		if dst = d.pick(s, a); dst == nil {
			d.leave(s, a)
			return 0, nil
		}
		var err error
		if ct, err = d.templates.Insert(key, hash, dst.ID, s.Persistence.Timeout, a.tick); err != nil {
			d.drop(a.f, dropTemplatesFull)
			return 0, nil
		}
		dst.Bind(true, false)
		if call != nil {
			d.templates.Describe(ct, e.key, s.Persistence.Engine, call)
		}
	}
	if found && call != nil && !d.templates.Described(ct) {
		d.templates.Describe(ct, e.key, s.Persistence.Engine, call)
	}
	if a.oneShot {
		d.templates.Control(ct, a.tick)
		d.templates.Counted(ct)
		d.templates.Release(ct)
		return 0, dst.once()
	}
	id, dst := d.connect(a, dst, uint32(ct)+1, own && dst.conf.Port != 0)
	if dst != nil {
		d.templates.Control(ct, a.tick)
	}
	return id, dst
}

// templateKey works out the key of the template that a flow to a service has, and its
// hash.
func (d *Path) templateKey(s *Service, f *packet.Flow, e *early) {
	s.form.Fill(&e.key, (*[5]uint64)(f), f.VirtualPort() == s.Port && s.Port != ftpPort)
	e.keyHash = d.templates.Hash(&e.key)
}

// callID is what the engine finds in the packet.
func callID(a *attempt) ([]byte, bool) {
	const udpHeader = 8
	if a.p.Kind != packet.UDP || a.quoted || a.p.L4+udpHeader >= a.p.End {
		return nil, false
	}
	return persist.CallID(a.f.Data[a.p.L4+udpHeader : a.p.End])
}

// once counts a connection of one packet, which is over at once but may have
// brought the server to its upper threshold.
func (dst *Dest) once() *Dest {
	dst.Bind(false, false)
	dst.Unbind(false, false)
	return dst
}

// connect makes the connection (ip_vs_conn_new). It is inactive until its
// first state says otherwise, which that of a SYN does here. destPort says that it is
// listed with its real server's port.
func (d *Path) connect(a *attempt, dst *Dest, template uint32, destPort bool) (id conn.ID, chosen *Dest) {
	var c conn.Change
	var err error
	owner := ownerBits(destPort, dst.conf.Forward)
	if a.syn {
		id, c, err = d.conns.InsertSYN(&a.p.Flow, a.hash, dst.ID, template, a.tick, owner)
	} else {
		id, err = d.conns.Insert(&a.p.Flow, a.hash, dst.ID, template, a.tick, owner)
	}
	if err != nil {
		d.drop(a.f, dropConnsFull)
		return 0, nil
	}
	dst.Bind(false, c.Activated)
	return id, dst
}

// leave is for a service without a usable real server: the client is told
// (ip_vs_leave).
func (d *Path) leave(s *Service, a *attempt) {
	if s.Port == ftpPort && a.p.Flow.VirtualPort() != ftpPort {
		if !a.quoted {
			d.passToHost(a.f, a.p, s)
		}
		return
	}
	d.drop(a.f, dropNoServer)
	if !a.quoted {
		d.unreachable(a.f, a.p, packet.PortUnreachable)
	}
}

// drop ends a frame. An answer may follow.
func (d *Path) drop(f *dataplane.Frame, cause int) {
	d.drops[cause]++
	f.Verdict = dataplane.Drop
}

// findTemplate is the template of a key.
func (d *Path) findTemplate(k *persist.Key, hash uint64) (ct persist.ID, found bool) {
	ct, found = d.templates.Lookup(k, hash)
	if found && d.templates.Pending(ct) {
		d.opener.acceptTemplate(uint32(ct)) // just made, on another CPU
	}
	return ct, found
}
