// Package director is a Linux Virtual Server in userspace: a layer-4 director that does
// what kernel IPVS does in direct routing.
//
// A Director takes packets from a dataplane.Plane, finds their virtual service, and
// sends them to the MAC address of the chosen real server. The verbs are ipvsadm's:
// AddService is -A, AddDestination is -a, and so on. This package is what happens under
// the control lock: commands, one at a time, their journal, and what the plane claims;
// package forward is the way of a packet.
package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ulvs/ulvs/forward"

	"golang.org/x/sync/errgroup"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/journal"
)

// DefaultConnections is how many connections a Director can hold if Options
// do not say.
const DefaultConnections = 1 << 20

// DefaultRSTs is how many RSTs a second a Director gives in the host's place, for each
// interface, if Options do not say. Linux has no such limit.
const DefaultRSTs = 1000

// Options are what a Director is made of. Plane is required.
type Options struct {
	// Plane carries the packets; Run runs it.
	Plane dataplane.Plane
	// Resolver finds the real servers' next hops; nil is the one that the plane brings
	// (dataplane.Resolving), as AF_PACKET and XDP do. The running of another one is the
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
	// RSTs is how many RSTs a second the director gives in the host's place, for each
	// interface; 0 is DefaultRSTs, and less than 0 any number. ICMP errors are limited as
	// the host's are, where the plane knows that (dataplane.Limiting), and otherwise by the
	// kernel's defaults.
	RSTs int
	// While says while what is served; the zero value is always.
	While While
	// Logger is told what an operator should know; nil means slog.Default(). Nothing is
	// logged for a packet.
	Logger *slog.Logger
	// Clock is CLOCK_MONOTONIC, for commands; nil is dataplane.Monotonic. Packets bring
	// their own time.
	Clock func() time.Duration
}

// Director is a Linux Virtual Server: services, their real servers, and the
// connections to them. Make it with New. All methods may be called from any
// goroutine, before, during and after Run.
//
// Two locks order its work. Commands take ctl, one at a time, and may wait for
// the system under it. The packet path has the forwarding lock (package forward) once a
// batch; a command has that too, for the moment in which it changes something.
type Director struct {
	plane    dataplane.Plane
	resolver dataplane.Resolver
	log      *slog.Logger
	clock    func() time.Duration
	path     *forward.Path
	// effects are replayed until the director is started, and live then.
	effects effects

	ctl          sync.Mutex
	journal      *journal.Journal // or nil; guarded by ctl
	adopted      bool
	journalStale bool          // a command is missing in the journal
	loading      bool          // Load is under way
	purged       []uint32      // by the trash, and not yet in the journal; Tick's alone
	cautioned    bool          // of a local real server; guarded by ctl
	marks4       *fwmark.Table // guarded by ctl
	marks6       *fwmark.Table
	limits       errorLimits
	standby      standby
	claims       claims
	marked       marked // guarded by ctl
	links        markLinks
	announced    announced  // guarded by ctl
	marking      sync.Mutex // one change of mark rules at a time; taken before ctl
}

var _ ulvs.Control = (*Director)(nil)
var _ dataplane.Handler = (*Director)(nil)

// New makes a director without services. It fails when there is not enough
// memory for its tables, or when they are larger than they can be.
func New(o Options) (_ *Director, err error) {
	if o.Plane == nil {
		return nil, errors.New("director.Options need a Plane")
	}
	if r, brings := o.Plane.(dataplane.Resolving); o.Resolver == nil && brings {
		o.Resolver = r.Resolver()
	}
	if o.Resolver == nil {
		return nil, fmt.Errorf("director.Options need a Resolver: the %s plane brings none", o.Plane.Name())
	}
	o.setDefaults()
	if o.Clock == nil {
		o.Clock = dataplane.Monotonic
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	d := &Director{effects: replayed{}, plane: o.Plane, resolver: o.Resolver, log: o.Logger, clock: o.Clock,
		marks4: fwmark.NewTable(false), marks6: fwmark.NewTable(true),
		announced: announced{services: map[*forward.Service]bool{}}}
	d.standby = standby{Director: d, while: o.While}
	d.links.plane, _ = o.Plane.(dataplane.Following)
	d.links.resolver = o.Resolver
	var block []byte
	d.limits.init(o.Plane, o.Logger, o.Clock())
	d.path, block, d.adopted, err = forward.New(forward.Options{
		Plane: o.Plane, Resolver: o.Resolver, Connections: o.Connections, Templates: o.Templates,
		MAC: o.MAC, Logger: o.Logger, Clock: o.Clock, Journal: journalSize,
		Limits: d.limits.last, RSTs: max(o.RSTs, 0),
		While: o.While.forward(),
	})
	if err != nil {
		return nil, err
	}
	if err := d.openJournal(block); err != nil {
		d.Close()
		return nil, err
	}
	if err := d.start(); err != nil {
		d.Close()
		return nil, fmt.Errorf("the %s plane: %w", d.plane.Name(), err)
	}
	return d, nil
}

func (o *Options) setDefaults() {
	if o.Connections == 0 {
		o.Connections = DefaultConnections
	}
	if o.Templates == 0 {
		o.Templates = max(o.Connections/4, min(o.Connections, 1<<16))
	}
	if o.RSTs == 0 {
		o.RSTs = DefaultRSTs
	}
}

// Sizes returns how much memory a director has that may outlive the process, in bytes, by
// name (xdp.CheckKept). Only Connections and Templates count.
func (o Options) Sizes() map[string]int {
	o.setDefaults()
	of := forward.Options{Connections: o.Connections, Templates: o.Templates, Journal: journalSize}
	return of.Sizes()
}

// start has the plane begin.
func (d *Director) start() error {
	d.path.State.Attach(d.adopted)
	d.effects = live{d}
	d.path.Upkeep.StandBy()
	d.path.Prepare()
	d.path.State.SetLoaded(d.adopted)
	if d.adopted {
		if err := d.effects.claim(); err != nil {
			return err
		}
	}
	return d.path.Start()
}

// Close frees the director's tables, those in the plane's memory too. Run must have
// returned; nothing may be called after it. A plane that never ran is still to be
// closed by who made it.
func (d *Director) Close() { d.path.Close() }

// Handle implements dataplane.Handler.
func (d *Director) Handle(now time.Duration, batch []dataplane.Frame) { d.path.Handle(now, batch) }

// ErrKept says that what an earlier process left cannot be used; a plane without
// it can.
var ErrKept = accel.ErrKept

// Run carries packets until ctx ends, and then returns nil; or until the plane
// fails, and then returns why. A plane's goroutines wait for frames in poll(2), and each holds one
// of GOMAXPROCS for up to ten milliseconds then: a program does well to raise that by one for each
// interface, and for each queue that has an AF_XDP socket.
func (d *Director) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.plane.Run(ctx, d.path) })
	var moved <-chan struct{}
	if n, notifies := d.resolver.(dataplane.Noticing); notifies {
		moved = n.LocalsChanged()
	}
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
			case <-moved:
				d.Tick(d.clock())
			case <-d.path.Upkeep.Due():
				d.path.Upkeep.Settle(nil)
			}
		}
	})
	return g.Wait()
}

// Tick does what is due at time now (CLOCK_MONOTONIC) without a packet: expiry,
// the estimator's round every two seconds, the trash. Run calls it; a caller of
// its own needs it only to move time without Run.
func (d *Director) Tick(now time.Duration) {
	due, gone, shed := d.path.Upkeep.Tick(now)
	if due || d.links.changed() { // a command that is about to claim does it too
		if err := d.effects.claimIdle(); err != nil {
			d.log.Error("the host cannot be kept from the services' packets, and may answer them too", "err", err)
		}
	}
	d.standby.follow(now)
	if shed {
		d.path.Upkeep.Shed(now)
	}
	d.recordPurged(gone)
	d.path.Upkeep.Settle(gone)
	if d.limits.changed(now) {
		d.path.Upkeep.SetErrorLimits(d.limits.last)
	}
}
