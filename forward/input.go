package forward

import (
	"time"

	"github.com/ulvs/ulvs"
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

// early is what is found out about a packet before its turn, so that the memory that
// it needs is on its way.
type early struct {
	hash    uint64   // of its flow
	opens   bool     // it opens a connection
	service *Service // of a packet that does
	looked  bool     // for the service
	// If its service is persistent, the key of the template that it has, and its hash.
	templated bool
	key       persist.Key
	keyHash   uint64
}

// Handle implements dataplane.Handler: it is the way of a packet through the
// director, read from top to bottom in this file and then in schedule.go
// (net/netfilter/ipvs/ip_vs_core.c, ip_vs_in_hook).
func (d *Path) Handle(now time.Duration, batch []dataplane.Frame) {
	var s *scratch
	select {
	case s = <-d.scratch:
	default:
		s = new(scratch)
	}
	tick := tickOf(now)
	for len(batch) > 0 {
		n := min(len(batch), batchSize)
		d.handle(tick, batch[:n], s)
		batch = batch[n:]
	}
	select {
	case d.scratch <- s:
	default:
	}
}

func (d *Path) handle(tick uint32, batch []dataplane.Frame, s *scratch) {
	for i := range batch {
		p, e := &s.packets[i], &s.early[i]
		p.Parse(batch[i].Data)
		e.opens, e.looked, e.templated = false, false, false
		if p.Kind == packet.TCP || p.Kind == packet.UDP || p.Kind == packet.SCTP {
			e.hash, e.opens = d.conns.Hash(&p.Flow), opens(p)
		}
	}
	d.lock()
	defer d.unlock()
	d.locals, d.in = d.resolver.Locals(), link{}
	d.advance(tick)
	d.table.mirror.heartbeat(tick)
	var lines uint32
	for i := range batch {
		if e := &s.early[i]; e.opens {
			lines += d.conns.TouchNew(e.hash)
		} else {
			lines += d.conns.Touch(e.hash)
		}
	}
	templated := false
	for i := range batch {
		if e := &s.early[i]; e.opens {
			d.ahead(&batch[i], &s.packets[i], e)
			templated = templated || e.templated
		}
	}
	// By itself, so that a processor has many of these loads under way.
	for i := 0; templated && i < len(batch); i++ {
		if e := &s.early[i]; e.templated {
			lines += d.templates.Touch(e.keyHash)
		}
	}
	d.touched = lines
	for i := range batch {
		d.frame(&batch[i], &s.packets[i], &s.early[i], tick)
	}
}

// ahead looks for the service of a packet that opens a connection, and works out which
// template it has.
func (d *Path) ahead(f *dataplane.Frame, p *packet.Packet, e *early) {
	e.service, e.looked = d.service(f, p, p), true
	s := e.service
	if s == nil || s.Persistence.Timeout == 0 {
		return
	}
	e.templated = true
	d.templateKey(s, &p.Flow, e)
}

// frame decides about one frame.
func (d *Path) frame(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) {
	switch p.Kind {
	case packet.TCP, packet.UDP, packet.SCTP:
		if p.FragOffset > 0 {
			d.laterFragment(f, p, tick)
			return
		}
		d.transport(f, p, e, tick)
	case packet.ICMP:
		d.icmp(f, p, tick)
	case packet.ARP:
		d.arp(f, p)
	case packet.Damaged:
		d.drops[dropDamaged]++
		d.damaged(f, p, tick)
	}
}

// damaged is a packet that cannot be read to its end. Where only its transport
// header is cut off behind the ports, it still follows its connection
// (ip_vs_conn_fill_param_proto reads the ports alone). All else is for the
// host to count and drop.
func (d *Path) damaged(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	switch p.Damage {
	case packet.TruncatedTCP, packet.TruncatedUDP, packet.TruncatedSCTP:
	default:
		return
	}
	id, found := d.find(&p.Flow, d.conns.Hash(&p.Flow))
	if !found {
		return
	}
	dst := d.table.dests[d.conns.Dest(id)]
	if !dst.available {
		d.drop(f, dropDestGone)
		return
	}
	d.account(dst, p)
	d.conns.Touched(id, tick)
	d.transmit(f, p, dst, methodOf(d.conns.Owner(id)))
}

// transport is the way of a packet that has ports.
func (d *Path) transport(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) {
	id, found := d.find(&p.Flow, e.hash)
	if !found {
		d.begin(f, p, e, tick)
		return
	}
	dst := d.table.dests[d.conns.Dest(id)]
	over := e.opens && d.reschedules(id, dst)
	if !over && !dst.available {
		if d.sysctl.ExpireNodestConn == 0 {
			d.drop(f, dropDestGone)
			return
		}
		over = true
	}
	if over {
		// It counts until its timer runs out a moment later, and so it does
		// while the scheduler chooses (ip_vs_conn_expire_now).
		d.conns.Hide(id)
		d.begin(f, p, e, tick)
		d.removeConn(id)
		return
	}
	d.account(dst, p)
	d.state(id, dst, p, tick)
	d.transmit(f, p, dst, methodOf(d.conns.Owner(id)))
	if p.Fragment {
		d.firstFragment(f, p, dst, tick)
	}
}

// begin is the way of a packet without a connection.
func (d *Path) begin(f *dataplane.Frame, p *packet.Packet, e *early, tick uint32) {
	id, dst, done := d.schedule(f, p, e, tick)
	if dst == nil {
		d.hostFragment(f, p, tick)
		return
	}
	d.account(dst, p)
	if !done {
		d.state(id, dst, p, tick)
	}
	d.transmit(f, p, dst, dst.conf.Forward)
	if p.Fragment {
		d.firstFragment(f, p, dst, tick)
	}
}

// find is the connection of a flow from the client.
func (d *Path) find(f *packet.Flow, hash uint64) (id conn.ID, found bool) {
	id, found = d.conns.Lookup(f, hash)
	if found && d.conns.Pending(id) {
		d.opener.acceptConn(uint32(id)) // just made, on another CPU
	}
	return id, found
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
func (d *Path) reschedules(id conn.ID, dst *Dest) bool {
	if d.sysctl.ExpireNodestConn != 0 && dst.Quiescent() {
		return true
	}
	mode := d.sysctl.ConnReuseMode
	return mode != 0 && d.conns.Template(id) == 0 && d.conns.Over(id, mode&2 != 0)
}

// account counts a packet for its server and service (ip_vs_in_stats).
func (d *Path) account(dst *Dest, p *packet.Packet) {
	if !dst.available {
		return
	}
	packets, size := uint64(1), uint64(p.End-p.L3)
	if p.Fragment {
		packets, size = fragmentCounts(p)
	}
	dst.Packets += packets
	dst.Bytes += size
	dst.svc.Packets += packets
	dst.svc.Bytes += size
}

// state brings the connection into the state that the packet asks for
// (ip_vs_set_state).
func (d *Path) state(id conn.ID, dst *Dest, p *packet.Packet, tick uint32) {
	var c conn.Change
	switch p.Kind {
	case packet.TCP:
		c = d.conns.TCP(id, p.TCPFlags, tick)
	case packet.SCTP:
		chunk := p.Chunk
		if p.HasNextChunk && p.NextChunk == sctpAbort {
			chunk = sctpAbort
		}
		c = d.conns.SCTP(id, chunk, tick)
	default:
		d.conns.UDP(id, tick)
		return
	}
	if c.Activated {
		dst.Activate(true)
	}
	if c.Deactivated {
		dst.Activate(false)
	}
	if c.Established {
		if t := d.conns.Template(id); t != 0 {
			d.templates.Assure(persist.ID(t - 1))
		}
	}
}

// transmit sends a packet on to its server, or answers why not
// (ip_vs_xmit.c, ip_vs_dr_xmit and __ip_vs_get_out_rt).
func (d *Path) transmit(f *dataplane.Frame, p *packet.Packet, dst *Dest, method ulvs.ForwardMethod) {
	if method != ulvs.DirectRoute {
		d.drop(f, dropMethod)
		return
	}
	n := dst.hop.Neighbor()
	switch {
	case n.State == dataplane.HopLocal:
		d.deliverLocal(f)
		return
	case n.State == dataplane.HopUnreachable && n.Ifindex == 0:
		d.drop(f, dropNoRoute)
		d.unreachable(f, p, packet.HostUnreachable)
		return
	case p.TTL <= 1:
		d.drop(f, dropTTL)
		d.answer(f, packet.AppendTimeExceeded(f.Room[:0], f.Data, p, p.Dest()))
		return
	case n.MTU > 0 && p.End-p.L3 > n.MTU && tooBig(f, p, n.MTU):
		if !p.Is6 && !p.DF && f.Offload.GSOSize == 0 {
			d.cut(f, p, dst.hop, n.MTU)
			return
		}
		d.drop(f, dropTooBig)
		d.answer(f, packet.AppendFragNeeded(f.Room[:0], f.Data, p, p.Dest(), n.MTU))
		return
	}
	if dst.pushed != n {
		d.table.mirror.pushServer(dst)
	}
	packet.DecrementTTL(f.Data, p)
	f.Hop = dst.hop
	f.Verdict = dataplane.Transmit
}

// icmp is the way of an ICMP packet: an error follows the connection that it
// quotes (ip_vs_in_icmp, ip_vs_in_icmp_v6); what the host would answer if it
// had the address is answered.
func (d *Path) icmp(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	q := &p.Quoted
	if p.IsICMPError() && q.OK && !p.Fragment {
		if q.FragOffset > 0 {
			return
		}
		hash := d.conns.Hash(&q.Flow)
		id, found := d.find(&q.Flow, hash)
		var dst *Dest
		var oneShot bool
		if found {
			dst = d.table.dests[d.conns.Dest(id)]
		} else if d.sysctl.ScheduleICMP != 0 {
			id, dst, oneShot = d.scheduleQuoted(f, p, hash, tick)
		}
		if dst == nil {
			return
		}
		// The kernel looks at IPv4's only (ip_vs_in_icmp_v6 does not).
		if !p.Is6 && !intact(f, p) {
			d.drop(f, dropChecksum)
			return
		}
		d.account(dst, p)
		method := dst.conf.Forward
		if !oneShot {
			d.conns.Counted(id)
			method = methodOf(d.conns.Owner(id))
		}
		d.transmit(f, p, dst, method)
		return
	}
	if p.Is6 && p.ICMPType == neighborSolicitation {
		if target, ok := p.NDTarget(f.Data); ok && d.answersFor(target) {
			if mac, ok := d.resolver.LinkAddr(f.In); ok {
				d.answer(f, packet.AppendNeighborAdvert(f.Room[:0], f.Data, p, target, d.ownMAC(mac)))
			}
		}
		return
	}
	echo := uint8(echoRequest)
	if p.Is6 {
		echo = echoRequest6
	}
	if p.ICMPType == echo && !p.Fragment && d.answersFor(p.Dest()) && intact(f, p) {
		d.answer(f, packet.AppendEchoReply(f.Room[:0], f.Data, p))
	}
}

const (
	echoRequest          = 8
	echoRequest6         = 128
	neighborSolicitation = 135
)
