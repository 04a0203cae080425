// Package forward is what happens under the forwarding lock: a packet finds its
// connection or is given one, and is sent on, answered or dropped
// (net/netfilter/ipvs/ip_vs_core.c, ip_vs_xmit.c); and the moments in which a command,
// the clock or a listing look at the same tables. It is for package director and not
// covered by compatibility.
package forward

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/estimator"
	"github.com/ulvs/ulvs/fragment"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
	"github.com/ulvs/ulvs/sysctl"
)

// Options are what a Path is made of. All are required but MAC.
type Options struct {
	Plane    dataplane.Plane
	Resolver dataplane.Resolver
	// Connections and Templates are the most there can be.
	Connections, Templates int
	// MAC, if not zero, is the Ethernet address under which virtual addresses are
	// announced that the host does not have.
	MAC dataplane.MAC
	Log *slog.Logger
	// Clock is CLOCK_MONOTONIC.
	Clock func() time.Duration
	// Journal is how many bytes the journal of commands takes, where the plane keeps it.
	Journal int
}

// Path is the way of a packet, with the tables that it meets. Make it with New. All
// exported methods may be called from any goroutine.
type Path struct {
	plane    dataplane.Plane
	resolver dataplane.Resolver
	mac      dataplane.MAC
	log      *slog.Logger
	clock    func() time.Duration

	persisting sync.Once

	fwd        sync.Mutex
	table      table
	conns      *conn.Table
	templates  *persist.Table
	fragments  *fragment.Table
	early      *fragment.Hold[dataplane.Frame] // that came before their first
	sysctl     *sysctl.Values
	defense    defense
	drops      drops
	request    sched.Request // what pick asks; here, since schedulers are called by interface
	shedCount  uint64        // entries that drop_entry ended
	parkedLost uint64        // by servers that are gone
	answered   uint64        // answers given in the place of the host or of IPVS
	nextEst    *uint32       // tick of the estimator's next round
	opener     *opener
	// What Attach puts to work: the plane's own mirror, and memory that outlives the
	// process.
	starting mirror
	kept     []state
	locals   *dataplane.Locals
	in       link   // of the batch's last packet that rules looked at
	touched  uint32 // keeps the look-ahead's loads from being left out
	claimDue bool   // the plane has to be told anew

	// scratch is working memory, for as many Handle calls at once as it holds;
	// more allocate.
	scratch chan *scratch
}

var _ dataplane.Handler = (*Path)(nil)

// New makes a path without services. Where the plane keeps what outlives the process,
// journal is the memory of the commands' journal, and adopted says that an earlier
// process left something in it: the caller makes its commands again, and then calls
// Adopt. A plane that forwards by itself waits for Start. The error wraps ErrKept if
// what was left is of no use.
func New(o Options) (p *Path, journal []byte, adopted bool, err error) {
	d := &Path{
		locals: o.Resolver.Locals(), plane: o.Plane, resolver: o.Resolver, mac: o.MAC, log: o.Log, clock: o.Clock,
		table: newTable(), sysctl: sysctl.Defaults(),
		fragments: fragment.New(fragments, fragmentLife), early: fragment.NewHold[dataplane.Frame](earlyFragments, fragmentLife), scratch: make(chan *scratch, 64),
	}
	now := tickOf(o.Clock())
	d.nextEst = new(uint32)
	d.opener = &opener{path: d}
	d.starting = noMirror{}
	conns := conn.Options{Max: o.Connections, Hz: hz, Now: now, Expired: d.connExpired, Prefetch: d.connAhead}
	templates := persist.Options{Max: o.Templates, Hz: hz, Now: now, Ended: d.templateEnded}
	if fast, ok := d.plane.(accel.Accelerator); ok {
		d.starting = planeMirror{fast}
		defer func() {
			if err != nil {
				fast.Release()
			}
		}()
		if journal, adopted, err = d.shareMemory(fast, &o, &conns, &templates); err != nil {
			return nil, nil, false, fmt.Errorf("the %s plane: %w", d.plane.Name(), err)
		}
	}
	if d.conns, err = conn.New(conns); err != nil {
		return nil, nil, false, fmt.Errorf("connection table: %w", unusable(adopted, err))
	}
	d.conns.Populate()
	if d.templates, err = persist.New(templates); err != nil {
		d.conns.Close()
		return nil, nil, false, fmt.Errorf("template table: %w", unusable(adopted, err))
	}
	*d.nextEst = now + estimatorPeriod
	return d, journal, adopted, nil
}

// ErrKept says that what an earlier process left cannot be used; a plane without
// it can.
var ErrKept = errors.New("what an earlier daemon left behind cannot be used")

// unusable says of an error about what was kept that it is one.
func unusable(adopted bool, err error) error {
	if !adopted {
		return err
	}
	return fmt.Errorf("%w: %w", ErrKept, err)
}

// Prepare tells a plane that forwards by itself what it has to know before the
// services' packets are claimed.
func (d *Path) Prepare() {
	d.table.mirror.setGeneration(d.conns.Generation())
	d.table.mirror.heartbeat(tickOf(d.clock()))
}

// hz is the director's tick: 4 ms, as a kernel's with HZ=250.
const hz = 250

const (
	// estimatorPeriod is the time between two rounds of the estimator.
	estimatorPeriod = uint32(estimator.Period * hz / time.Second)
	// fragments is how many fragmented datagrams are followed at a time, and
	// fragmentLife for how long (net.ipv4.ipfrag_time).
	fragments = 8192
	// earlyFragments is how many wait for their first.
	earlyFragments = 1024
	fragmentLife   = 30 * hz
)

// Start has a plane that forwards by itself begin.
func (d *Path) Start() error {
	seed, homes := d.conns.Seed()
	a := accel.Acceleration{TableShape: accel.TableShape{Seed: seed, Homes: homes, Slots: uint32(d.conns.Slots())}, Hz: hz}
	a.Templates.Seed, a.Templates.Homes = d.templates.Seed()
	a.Templates.Slots = uint32(d.templates.Slots())
	if err := d.table.mirror.start(a); err != nil {
		return err
	}
	return d.opener.start()
}

// lock takes the forwarding lock, the only way to it, and takes over what the plane has
// opened meanwhile.
func (d *Path) lock() {
	d.fwd.Lock()
	d.opener.drain()
}

// unlock decides ahead for the services that have few picks left, and gives the lock
// back. Of a batch of packets that comes last, as those are older than what a program
// will see.
func (d *Path) unlock() {
	d.opener.refillLow()
	d.fwd.Unlock()
}

// freeRetired gives back the slots of connections and templates that ended, once the
// plane has seen the last of them.
func (d *Path) freeRetired() {
	d.lock()
	conns, templates := d.conns.Retired(), d.templates.Retired()
	d.unlock()
	if len(conns)+len(templates) == 0 {
		return
	}
	if err := d.table.mirror.grace(); err != nil {
		d.log.Error("slots of connections and templates cannot be used again", "slots", len(conns)+len(templates), "err", err)
		return
	}
	d.lock()
	d.conns.Free(conns)
	d.templates.Free(templates)
	d.unlock()
}

// Close frees the tables, those in the plane's memory too. Nothing may be called after
// it.
func (d *Path) Close() {
	d.lock()
	defer d.unlock()
	d.opener = &opener{path: d}
	d.conns.Close()
	d.templates.Close()
	d.starting.release()
}

// expiryBudget is how many timers are looked at under one hold of the lock.
const expiryBudget = 4096

func (d *Path) advance(tick uint32) (more bool) {
	more = d.conns.Advance(tick, expiryBudget)
	return d.templates.Advance(tick, expiryBudget) || more
}

// connAhead reads what connExpired will need.
func (d *Path) connAhead(id conn.ID) (sum uint32) {
	if dst := d.table.dests[d.conns.Dest(id)]; dst != nil {
		sum = dst.Bound()
	}
	if t := d.conns.Template(id); t != 0 {
		sum += d.templates.TouchRecord(persist.ID(t - 1))
	}
	return sum
}

// connExpired is told of a connection that goes (ip_vs_conn.c,
// ip_vs_conn_expire).
func (d *Path) connExpired(id conn.ID) {
	dst := d.table.dests[d.conns.Dest(id)]
	dst.Unbind(false, d.conns.Active(id))
	if t := d.conns.Template(id); t != 0 {
		d.templates.Release(persist.ID(t - 1))
	}
}

// removeConn ends a connection now (ip_vs_conn_expire_now).
func (d *Path) removeConn(id conn.ID) {
	d.connExpired(id)
	d.conns.Remove(id)
}

func (d *Path) templateEnded(id persist.ID) {
	if d.templates.Dest(id) >= uint32(len(d.table.dests)) || d.table.dests[d.templates.Dest(id)] == nil {
		return // adopted, and of nobody
	}
	dst := d.table.dests[d.templates.Dest(id)]
	dst.Unbind(true, false)
}

func tickOf(now time.Duration) uint32 { return uint32(now / (time.Second / hz)) }

// Tick does what is due at time now without a packet, as far as it is done under the
// lock: expiry, the estimator's round, the trash. claimDue says that the plane has to be
// told anew what is claimed. Settle does the rest.
func (d *Path) Tick(now time.Duration) (claimDue bool, gone []*Dest, shed bool) {
	tick := tickOf(now)
	for more := true; more; {
		d.lock()
		more = d.advance(tick)
		d.unlock()
	}
	d.lock()
	defer d.unlock()
	d.table.mirror.heartbeat(tick)
	d.table.mirror.syncServers(d.table.dests, tick)
	if int32(tick-*d.nextEst) >= 0 {
		if d.sysctl.RunEstimation != 0 {
			d.table.estimate()
		}
		*d.nextEst = tick + estimatorPeriod
	}
	shed = d.defense.due(tick) && d.defend()
	d.opener.update()
	gone = d.table.emptyTrash(tick)
	for _, dst := range gone {
		d.parkedLost += dst.hop.Lost()
	}
	return d.claimDue, gone, shed
}

// Shed ends entries as drop_entry has it (ip_vs_random_dropentry).
func (d *Path) Shed(now time.Duration) { d.shed(tickOf(now)) }

// Settle gives back what nobody needs any more: the next hops of real servers that have
// left the trash, and the slots of what has ended.
func (d *Path) Settle(gone []*Dest) {
	for _, dst := range gone {
		d.resolver.Release(dst.hop)
	}
	d.freeRetired()
}
