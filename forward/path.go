// Package forward is what happens under the forwarding lock: a packet finds its
// connection or is given one, and is sent on, answered or dropped
// (net/netfilter/ipvs/ip_vs_core.c, ip_vs_xmit.c); and the moments in which a command,
// the clock or a listing look at the same tables. It is for package director and not
// covered by compatibility.
package forward

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/estimator"
	"github.com/ulvs/ulvs/internal/fragment"
	"github.com/ulvs/ulvs/internal/ratelimit"
	"github.com/ulvs/ulvs/internal/sysctl"
	"github.com/ulvs/ulvs/persist"
)

// Options are what a Path is made of. All are required but MAC and RSTs.
type Options struct {
	Plane    dataplane.Plane
	Resolver dataplane.Resolver
	// Connections and Templates are the most there can be.
	Connections, Templates int
	// MAC, if not zero, is the Ethernet address under which virtual addresses are
	// announced that the host does not have.
	MAC    dataplane.MAC
	Logger *slog.Logger
	// Clock is CLOCK_MONOTONIC.
	Clock func() time.Duration
	// Limits are how often ICMP errors are sent at first, and RSTs how many RSTs a second
	// and interface; 0 is any number.
	Limits dataplane.ErrorLimits
	RSTs   int
	// While says while what services are served.
	While While
	// Journal is how many bytes the journal of commands takes at first, where the plane has
	// memory that outlives the process.
	Journal int
}

// Path is the way of a packet, with the tables that it meets. Make it with New. All
// exported methods, and those of its parts, may be called from any goroutine.
//
// The way is in layers, each of which has what is below it: tables, what is answered,
// what is sent, fragments, scheduling. Commands and the like look at the same tables.
type Path struct {
	scheduling

	Commands Commands
	Listing  Listing
	State    State
	Upkeep   Upkeep
}

var _ dataplane.Handler = (*Path)(nil)

// New makes a path without services. Where the plane keeps what outlives the process,
// journal is the memory of the commands' journal, and adopted says that an earlier
// process left something in it: the caller replays that, of which nothing is seen outside of
// the path until State.Attach. A plane that forwards by itself waits for Start. The error
// wraps accel.ErrKept if what was left is of no use.
func New(o Options) (p *Path, journal []byte, adopted bool, err error) {
	p = new(Path)
	tb := &p.tables
	now := tickOf(o.Clock())
	*tb = tables{
		locals: o.Resolver.Locals(), plane: o.Plane, resolver: o.Resolver, host: o.Resolver,
		mac: o.MAC, log: o.Logger, clock: o.Clock,
		index: newIndex(), sysctl: sysctl.Defaults(), nextEst: new(uint32), starting: noMirror{},
		fragments: fragment.New(fragments, fragmentLife),
		early:     fragment.NewHold[dataplane.Frame](earlyFragments, earlyBytes, fragmentLife),
		limiter:   ratelimit.New(o.Limits, o.RSTs, hz, now), scratch: make(chan *scratch, 64),
		settle: make(chan struct{}, 1), standby: standby{While: o.While},
	}
	tb.now.Store(now)
	tb.opener, tb.crossings = &opener{tables: tb}, &crossings{tables: tb}
	p.Commands, p.Listing, p.State, p.Upkeep = Commands{tb}, Listing{tb}, State{tb}, Upkeep{tb}
	conns := conn.Options{Max: o.Connections, Hz: hz, Now: now, Expired: tb.connExpired,
		Changed: tb.opener.acceptState, Prefetch: tb.prefetchConn,
		Answered: func(ct uint32) { tb.templates.Answer(persist.ID(ct - 1)) }}
	templates := persist.Options{Max: o.Templates, Hz: hz, Now: now, Ended: tb.templateEnded}
	if fast, ok := tb.plane.(accel.Accelerator); ok {
		tb.starting = planeMirror{fast}
		defer func() {
			if err != nil {
				fast.Release()
			}
		}()
		if journal, adopted, err = tb.shareMemory(fast, &o, &conns, &templates); err != nil {
			return nil, nil, false, fmt.Errorf("the %s plane: %w", tb.plane.Name(), err)
		}
	}
	if tb.conns, err = conn.New(conns); err != nil {
		return nil, nil, false, fmt.Errorf("cannot make the table of connections: %w", unusable(adopted, err))
	}
	tb.conns.Populate()
	if tb.templates, err = persist.New(templates); err != nil {
		tb.conns.Close()
		return nil, nil, false, fmt.Errorf("cannot make the table of templates: %w", unusable(adopted, err))
	}
	if conns.Quarantine {
		tb.spareConns, tb.spareTemplates = spareOf(o.Connections), spareOf(o.Templates)
		tb.conns.KeepSpare(tb.spareConns.n)
		tb.templates.KeepSpare(tb.spareTemplates.n)
	}
	*tb.nextEst = now + estimatorPeriod
	return p, journal, adopted, nil
}

// unusable says of an error about what was kept that it is one.
func unusable(adopted bool, err error) error {
	if !adopted {
		return err
	}
	return fmt.Errorf("%w: %w", accel.ErrKept, err)
}

// Prepare tells a plane that forwards by itself what it has to know before the
// services' packets are claimed.
func (in *Path) Prepare() {
	in.index.mirror.setGeneration(in.conns.Generation())
	in.index.mirror.heartbeat(tickOf(in.clock()))
}

// hz is the director's tick: 4 ms, as a kernel's with HZ=250.
const hz = 250

const (
	// estimatorPeriod is the time between two rounds of the estimator.
	estimatorPeriod = uint32(estimator.Period * hz / time.Second)
	// fragments is how many fragmented datagrams are followed at a time, and
	// fragmentLife for how long (net.ipv4.ipfrag_time).
	fragments = 8192
	// earlyFragments is how many wait for their first, and earlyBytes how many bytes
	// they have together (net.ipv4.ipfrag_high_thresh).
	earlyFragments = 1024
	earlyBytes     = 4 << 20
	fragmentLife   = 30 * hz
)

// Start has a plane that forwards by itself begin.
func (in *Path) Start() error {
	seed, homes := in.conns.Seed()
	a := accel.Acceleration{TableShape: accel.TableShape{Seed: seed, Homes: homes, Slots: uint32(in.conns.Slots())},
		Hz: hz}
	a.Templates.Seed, a.Templates.Homes = in.templates.Seed()
	a.Templates.Slots = uint32(in.templates.Slots())
	if err := in.index.mirror.start(a); err != nil {
		return err
	}
	return in.opener.start()
}

// Close frees the tables, those in the plane's memory too. Nothing may be called after
// it.
func (in *Path) Close() {
	in.lock()
	defer in.unlock()
	in.opener = &opener{tables: &in.tables}
	in.conns.Close()
	in.templates.Close()
	in.starting.release()
}

func tickOf(now time.Duration) uint32 { return uint32(now / (time.Second / hz)) }
