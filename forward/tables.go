package forward

import (
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/fragment"
	"github.com/ulvs/ulvs/internal/ratelimit"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/internal/svctable"
	"github.com/ulvs/ulvs/internal/sysctl"
	"github.com/ulvs/ulvs/packet"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// tables are what the forwarding lock guards: connections, templates, services and real
// servers, and what is known of the host.
type tables struct {
	plane    dataplane.Plane
	resolver dataplane.Resolver
	host     fwmark.Host // the resolver, as mark rules ask it
	mac      dataplane.MAC
	log      *slog.Logger
	clock    func() time.Duration

	persisting sync.Once

	// limiter says how often is answered, and now is the tick of the last batch of
	// packets. Both are also for what is answered without the lock.
	limiter *ratelimit.Limiter
	now     atomic.Uint32

	fwd       sync.Mutex
	index     index
	standby   standby
	conns     *conn.Table
	templates *persist.Table
	fragments *fragment.Table
	early     *fragment.Hold[dataplane.Frame] // that came before their first
	sysctl    *sysctl.Values
	defense   defense
	flood     flood
	drops     drops
	request   sched.Request // what pick asks; here, since schedulers are called by interface
	shedCount uint64        // entries that drop_entry ended
	// spareConns and spareTemplates are slots for who comes after a flood.
	spareConns, spareTemplates spare
	// Half-open connections that made room.
	halfOpenEvicted uint64
	parkedLost      uint64 // by servers that are gone
	conflicts       []Conflict
	conflicting     uint64 // answers of others that were no mistake of ours
	undecided       Undecided
	icmpErrors      rare    // that followed the connection that they quote
	fragmented      rare    // fragments that were forwarded
	answered        uint64  // answers given in the place of the host or of IPVS
	nextEst         *uint32 // tick of the estimator's next round
	opener          *opener
	crossings       *crossings
	// What Attach puts to work: the plane's own mirror, and memory that outlives the
	// process.
	starting mirror
	kept     *kept // or nil
	counts   []uint64
	locals   *dataplane.Locals
	in       link   // of the batch's last packet that rules looked at
	touched  uint32 // keeps the loads of prefetching from being left out
	claimDue bool   // Claim is due
	settle   chan struct{}
	loaded   bool // what there is may be gone on with (State.SetLoaded)

	// parts is working memory of eachInParts.
	parts []*Service
	// scratch is working memory, for as many Handle calls at once as it holds;
	// more allocate.
	scratch chan *scratch
}

// lock takes the forwarding lock, the only way to it, and accepts what the plane has opened
// meanwhile.
func (tb *tables) lock() {
	tb.fwd.Lock()
	tb.opener.drain()
}

// unlock refills the picks of the services that have few left, and gives the lock back.
// Of a batch of packets that comes last, as those are older than what a program will see.
func (tb *tables) unlock() {
	tb.opener.refillLow()
	tb.fwd.Unlock()
}

// change carries out f under the forwarding lock.
func (tb *tables) change(f func()) {
	tb.lock()
	defer tb.unlock()
	f()
	tb.opener.update()
}

// eachInParts calls f for each service under the forwarding lock, which it gives back after some.
func eachInParts(tb *tables, f func(*Service)) {
	tb.lock()
	all := tb.parts[:0] // nobody else's, until it is given back
	tb.parts = nil
	for s := range tb.index.Each {
		all = append(all, s)
	}
	tb.unlock()
	const some = 64
	for at := 0; at < len(all); at += some {
		tb.change(func() {
			for _, s := range all[at:min(at+some, len(all))] {
				if tb.index.find(s.ServiceKey) == s { // still
					f(s)
				}
			}
		})
	}
	clear(all)
	tb.lock()
	tb.parts = all
	tb.unlock()
}

// find returns the connection of a flow from the client.
func (tb *tables) find(f *packet.Flow, hash uint64) (id conn.ID, found bool) {
	id, found = tb.conns.Table.Lookup((*shtab.Key)(f), hash) // conn's own is one call more
	if found && tb.conns.Unaccepted(id) {                    // just now, on another CPU
		tb.opener.acceptConn(uint32(id), tb.conns.Pending(id))
	}
	return id, found
}

// findTemplate returns the template of a key.
func (tb *tables) findTemplate(k *persist.Key, hash uint64) (ct persist.ID, found bool) {
	ct, found = tb.templates.Lookup(k, hash)
	if found && tb.templates.Pending(ct) {
		tb.opener.acceptTemplate(uint32(ct), true) // just opened, on another CPU
	}
	return ct, found
}

// templateKey works out the key of the template that a flow to a service has, and its
// hash.
func (tb *tables) templateKey(s *Service, f *packet.Flow, e *early) {
	s.form.Fill(&e.key, (*[5]uint64)(f), f.VirtualPort() == s.Port && s.Port != FTPPort)
	e.keyHash = tb.templates.Hash(&e.key)
}

// service returns the virtual service of a packet or, when it is an ICMP error, of
// the packet that it quotes, if it is served now. The mark is worked out here, as a
// connection's packets do not need it.
func (tb *tables) service(f *dataplane.Frame, p, of *packet.Packet) (s *Service) {
	mark := tb.mark(f, p)
	if !of.Is6 {
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], of.Flow[0])
		s = tb.index.LookupIPv4(binary.BigEndian.Uint32(b[4:]), of.Flow.VirtualPort(), of.Proto, mark)
	} else {
		k := svctable.Key{Port: of.Flow.VirtualPort(), Proto: of.Proto, IPv6: of.Is6}
		virtualAddr(&of.Flow, of.Is6, &k.Addr)
		s = tb.index.Lookup(k, mark)
	}
	if s != nil && s.away.Load() {
		return nil
	}
	return s
}

// mark returns the firewall mark that the rules give a packet.
func (tb *tables) mark(f *dataplane.Frame, p *packet.Packet) uint32 {
	set := tb.index.sets[family(p.Is6)]
	if set == nil {
		return 0
	}
	if f.In != tb.in.index {
		tb.in = link{f.In, tb.resolver.LinkName(f.In)}
	}
	return set.Mark(&fwmark.Input{Packet: p, Frame: f.Data, In: tb.in.name, Host: tb.host})
}

// persists sees to the memory for templates, if c is the first service to have some.
func (tb *tables) persists(c ulvs.Service) {
	if c.Persistence.Timeout != 0 {
		tb.persisting.Do(tb.templates.Populate)
	}
}

func (tb *tables) timeouts() (t ulvs.Timeouts) {
	t.TCP, t.TCPFin, t.UDP = tb.conns.Timeouts()
	return t
}
