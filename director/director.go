package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/estimator"
	"github.com/ulvs/ulvs/fragment"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/journal"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
	"github.com/ulvs/ulvs/sysctl"
)

// DefaultConnections is how many connections a Director can hold if Options
// do not say.
const DefaultConnections = 1 << 20

// hz is the director's tick: 4 ms, as a kernel's with HZ=250.
const hz = 250

// Options are what a Director is made of. Plane and Resolver are required.
type Options struct {
	// Plane carries the packets; Run runs it.
	Plane dataplane.Plane
	// Resolver finds the real servers' next hops. Its own running is the
	// caller's matter.
	Resolver dataplane.Resolver
	// Connections is the most connections there can be, 1 to 2^30; 0 is
	// DefaultConnections. They take about 120 bytes each, from the start.
	Connections int
	// Templates is the most connection templates there can be; 0 is a quarter of
	// the connections, or 65,536 where that is more, but no more than connections.
	// They take about 130 bytes each: from the start where the plane keeps them,
	// otherwise when used.
	Templates int
	// MAC, if not zero, is the Ethernet address under which virtual addresses
	// are announced that the host does not have (VRRP's); otherwise each
	// interface's own.
	MAC dataplane.MAC
	// Log is for what an operator should know; nil is nowhere. Nothing is
	// logged for a packet.
	Log *slog.Logger
	// Clock is CLOCK_MONOTONIC, for commands; nil reads it. Packets bring
	// their own time.
	Clock func() time.Duration
}

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

// Director is a Linux Virtual Server: services, their real servers, and the
// connections to them. Make it with New. All methods may be called from any
// goroutine, before, during and after Run.
//
// Two locks order its work. Commands take ctl, one at a time, and may wait for
// the system under it. The packet path takes fwd once a batch; a command takes
// fwd too, for the moment in which it changes something.
type Director struct {
	plane    dataplane.Plane
	resolver dataplane.Resolver
	mac      dataplane.MAC
	log      *slog.Logger
	clock    func() time.Duration

	ctl          sync.Mutex
	persisting   sync.Once
	journal      *journal.Journal // or nil; guarded by ctl
	adopted      bool
	journalStale bool          // a command is missing in the journal
	loading      bool          // Load is under way
	purged       []uint32      // by the trash, and not yet in the journal; Tick's alone
	marks4       *fwmark.Table // guarded by ctl
	marks6       *fwmark.Table
	// When the last claim ended, and how long it took.
	claimed   time.Time
	claimCost time.Duration

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
	opener     *opener       // or nil
	locals     *dataplane.Locals
	in         link   // of the batch's last packet that rules looked at
	touched    uint32 // keeps the look-ahead's loads from being left out
	claimDue   bool   // the plane has to be told anew

	// scratch is working memory, for as many Handle calls at once as it holds;
	// more allocate.
	scratch chan *scratch
}

var _ ulvs.Control = (*Director)(nil)
var _ dataplane.Handler = (*Director)(nil)

// New makes a director without services. It fails when there is not enough
// memory for its tables, or when they are larger than they can be.
func New(o Options) (_ *Director, err error) {
	if o.Plane == nil || o.Resolver == nil {
		return nil, errors.New("ulvs: Options need a Plane and a Resolver")
	}
	if o.Connections == 0 {
		o.Connections = DefaultConnections
	}
	if o.Templates == 0 {
		o.Templates = max(o.Connections/4, min(o.Connections, 1<<16))
	}
	if o.Clock == nil {
		o.Clock = monotonic
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Director{
		locals: o.Resolver.Locals(), plane: o.Plane, resolver: o.Resolver, mac: o.MAC, log: o.Log, clock: o.Clock,
		marks4: fwmark.NewTable(false), marks6: fwmark.NewTable(true),
		table: newTable(), sysctl: sysctl.Defaults(),
		fragments: fragment.New(fragments, fragmentLife), early: fragment.NewHold[dataplane.Frame](earlyFragments, fragmentLife), scratch: make(chan *scratch, 64),
	}
	now := tickOf(o.Clock())
	d.nextEst = new(uint32)
	conns := conn.Options{Max: o.Connections, Hz: hz, Now: now, Expired: d.connExpired, Prefetch: d.connAhead}
	templates := persist.Options{Max: o.Templates, Hz: hz, Now: now, Ended: d.templateEnded}
	var kept [][]byte
	if fast, ok := d.plane.(accel.Accelerator); ok {
		d.table.fast = fast
		defer func() {
			if err != nil {
				fast.Release()
			}
		}()
		if kept, err = d.shareMemory(&o, &conns, &templates); err != nil {
			return nil, fmt.Errorf("ulvs: the %s plane: %w", d.plane.Name(), err)
		}
	}
	if d.conns, err = conn.New(conns); err != nil {
		return nil, fmt.Errorf("ulvs: connection table: %w", unusable(kept, err))
	}
	d.conns.Populate()
	if d.templates, err = persist.New(templates); err != nil {
		d.conns.Close()
		return nil, fmt.Errorf("ulvs: template table: %w", unusable(kept, err))
	}
	if left := int32(*d.nextEst - now); kept == nil || left < 0 || left > int32(estimatorPeriod) {
		*d.nextEst = now + estimatorPeriod
	}
	if kept != nil {
		if err := d.adopt(kept); err != nil {
			d.Close()
			return nil, fmt.Errorf("ulvs: %w: %w", ErrKept, err)
		}
		d.adopted = true
	}
	if err := d.accelerate(); err != nil {
		d.Close()
		return nil, fmt.Errorf("ulvs: the %s plane: %w", d.plane.Name(), err)
	}
	return d, nil
}

// ErrKept says that what an earlier process left cannot be used; a plane without
// it can.
var ErrKept = errors.New("what an earlier daemon left behind cannot be used")

// unusable says of an error about what was kept that it is one.
func unusable(kept [][]byte, err error) error {
	if kept == nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrKept, err)
}

// accelerate has the plane begin.
func (d *Director) accelerate() error {
	if d.table.fast == nil {
		return nil
	}
	seed, homes := d.conns.Seed()
	d.table.fast.SetGeneration(d.conns.Generation())
	d.table.fast.Heartbeat(tickOf(d.clock()))
	if d.adopted {
		d.ctl.Lock()
		defer d.ctl.Unlock()
		if err := d.claim(nil); err != nil {
			return err
		}
	}
	a := accel.Acceleration{TableShape: accel.TableShape{Seed: seed, Homes: homes, Slots: uint32(d.conns.Slots())}, Hz: hz}
	a.Templates.Seed, a.Templates.Homes = d.templates.Seed()
	a.Templates.Slots = uint32(d.templates.Slots())
	if err := d.table.fast.Accelerate(a); err != nil {
		return err
	}
	return d.startOpening()
}

// freeRetired gives back the slots of connections and templates that ended, once the
// plane has seen the last of them.
func (d *Director) freeRetired() {
	if d.table.fast == nil {
		return
	}
	d.fwd.Lock()
	conns, templates := d.conns.Retired(), d.templates.Retired()
	d.fwd.Unlock()
	if len(conns)+len(templates) == 0 {
		return
	}
	if err := d.table.fast.Grace(); err != nil {
		d.log.Error("slots of connections and templates cannot be used again", "slots", len(conns)+len(templates), "err", err)
		return
	}
	d.fwd.Lock()
	d.conns.Free(conns)
	d.templates.Free(templates)
	d.fwd.Unlock()
}

// Close frees the director's tables, those in the plane's memory too. Run must have
// returned; nothing may be called after it. A plane that never ran is still to be
// closed by who made it.
func (d *Director) Close() {
	d.fwd.Lock()
	defer d.fwd.Unlock()
	d.conns.Close()
	d.templates.Close()
	if d.table.fast != nil {
		d.table.fast.Release()
	}
}

// Run carries packets until ctx ends, and then returns nil; or until the plane
// fails, and then returns why.
func (d *Director) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.plane.Run(ctx, d) })
	g.Go(func() error {
		// Packets move the clock too; this is for quiet times.
		t := time.NewTicker(50 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
				d.Tick(d.clock())
			}
		}
	})
	return g.Wait()
}

// Tick does what is due at time now (CLOCK_MONOTONIC) without a packet: expiry,
// the estimator's round every two seconds, the trash. Run calls it; a caller of
// its own needs it only to move time without Run.
func (d *Director) Tick(now time.Duration) {
	tick := tickOf(now)
	for more := true; more; {
		d.lock()
		more = d.advance(tick)
		d.fwd.Unlock()
	}
	d.fwd.Lock()
	if d.table.fast != nil {
		d.table.fast.Heartbeat(tick)
		d.table.syncServers(tick)
	}
	if int32(tick-*d.nextEst) >= 0 {
		if d.sysctl.RunEstimation != 0 {
			d.table.estimate()
		}
		*d.nextEst = tick + estimatorPeriod
	}
	shed := d.defense.due(tick) && d.defend()
	d.updateOpening()
	gone := d.table.emptyTrash(tick)
	due := d.claimDue
	for _, dst := range gone {
		d.parkedLost += dst.hop.Lost()
	}
	d.fwd.Unlock()
	if due && d.ctl.TryLock() {
		if err := d.claim(nil); err != nil {
			d.log.Error("claiming the services' packets from the host", "err", err)
		}
		d.ctl.Unlock()
	}
	if shed {
		d.shed(tick)
	}
	d.recordPurged(gone)
	for _, dst := range gone {
		d.resolver.Release(dst.hop)
	}
	d.freeRetired()
}

// expiryBudget is how many timers are looked at under one hold of the lock.
const expiryBudget = 4096

func (d *Director) advance(tick uint32) (more bool) {
	more = d.conns.Advance(tick, expiryBudget)
	return d.templates.Advance(tick, expiryBudget) || more
}

// connAhead reads what connExpired will need.
func (d *Director) connAhead(id conn.ID) (sum uint32) {
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
func (d *Director) connExpired(id conn.ID) {
	dst := d.table.dests[d.conns.Dest(id)]
	dst.Unbind(false, d.conns.Active(id))
	if t := d.conns.Template(id); t != 0 {
		d.templates.Release(persist.ID(t - 1))
	}
}

// removeConn ends a connection now (ip_vs_conn_expire_now).
func (d *Director) removeConn(id conn.ID) {
	d.connExpired(id)
	d.conns.Remove(id)
}

func (d *Director) templateEnded(id persist.ID) {
	if d.templates.Dest(id) >= uint32(len(d.table.dests)) || d.table.dests[d.templates.Dest(id)] == nil {
		return // adopted, and of nobody
	}
	dst := d.table.dests[d.templates.Dest(id)]
	dst.Unbind(true, false)
}

func tickOf(now time.Duration) uint32 { return uint32(now / (time.Second / hz)) }

// monotonic is CLOCK_MONOTONIC.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot fail for this clock
	}
	return time.Duration(ts.Nano())
}
