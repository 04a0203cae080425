// Package afpacket is a dataplane.Plane over AF_PACKET sockets with mapped
// rings. It needs no BPF, works in a user namespace, and runs on any kernel
// since 4.20. Frames arrive as the host's stack sees them, which sees them
// too: see Claim. Offloads stay on: a frame's unfinished checksum and
// segmentation are carried along (PACKET_VNET_HDR) and given back to the
// kernel with the frame.
//
// The files in the order in which a frame meets them: filter.go, socket.go, layout.go
// and ring.go (rings), receiver.go (the loop), tag.go (VLAN), sender.go. Besides them
// claim.go and markrule.go keep the host's stack away.
package afpacket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/neigh"
	"github.com/ulvs/ulvs/internal/hostlink"
)

// Options configure a Plane. Only Interfaces is required.
type Options struct {
	// Interfaces are the names of the Ethernet interfaces that frames are
	// taken from. Frames may be sent to others too. One at least must be there, or have been:
	// the others are taken when they come.
	Interfaces []string
	// Earlier are interfaces that an earlier process had, by the names that it was given,
	// and their numbers then or 0.
	Earlier map[string]int
	// MAC is one more unicast address that is accepted on all of them: that
	// of a virtual router (VRRP). The zero value means none.
	MAC dataplane.MAC
	// Tap, if not nil, says of an interface by which other one its frames come and go back to the host, if a
	// program gives them to that and keeps them from the host (package tcx), or 0. They go back with
	// the number of their interface as their mark.
	Tap func(of int) (ifindex int, err error)
	// Withhold has nftables keep the host away also behind a Tap: from an address that the host gets before the
	// director has heard of it (dataplane.Claims.WhileLocal).
	Withhold bool
	// Resolver is somebody else's, who runs it; nil has the plane make and run its own
	// (package neigh).
	Resolver dataplane.Resolver
	// Owner is the daemon's name, if not "": its claims have it, so that Run takes away
	// what an earlier one of that name left on other interfaces. See Withdraw.
	Owner string
	// Logger is told what becomes of interfaces; nil means slog.Default().
	Logger *slog.Logger
}

// Plane is a dataplane.Plane. Make one with New; it is safe for concurrent
// use, and Run may be called once.
type Plane struct {
	opt       Options
	log       *slog.Logger
	resolver  *neigh.Resolver // its own, or nil
	ns        namespace
	clock     clock
	c         counters
	links     *hostlink.Links
	receivers receivers
	host      dataplane.Neighbor // the host itself, by way of lo: addresses that are zero
	loopback  int                // its index, by which claimed frames get to the host; 0: they do not
	claims    claims

	senders atomic.Pointer[map[int]*sender]
	mu      sync.Mutex        // guards what follows, and the making of senders
	failed  map[int]time.Time // when a sender could not be made
	started bool
	closed  bool
}

var (
	_ dataplane.Plane     = (*Plane)(nil)
	_ dataplane.Described = (*Plane)(nil)
	_ dataplane.Following = (*Plane)(nil)
)

// New opens sockets on the interfaces, in the network namespace of the
// calling thread. Frames are kept in their rings until Run. Close gives back
// the sockets of a plane that never ran.
func New(opt Options) (*Plane, error) {
	if opt.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("%s is a multicast address: give a unicast one", net.HardwareAddr(opt.MAC[:]))
	}
	ns, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	p := &Plane{opt: opt, log: opt.Logger, ns: ns, clock: newClock(), failed: make(map[int]time.Time)}
	if p.log == nil {
		p.log = slog.Default()
	}
	if opt.Resolver == nil {
		if p.resolver, err = neigh.New(neigh.Options{Logger: p.log, Egress: func(i int) { p.sender(i) }}); err != nil {
			ns.close()
			return nil, fmt.Errorf("cannot follow routes and neighbours: %w", err)
		}
		p.opt.Resolver = p.resolver
	}
	p.senders.Store(&map[int]*sender{})
	p.loopback = loopback()
	p.host = dataplane.Neighbor{State: dataplane.HopReachable, Ifindex: p.loopback}
	p.claims.ns, p.claims.owner, p.claims.mac = ns, ownerChain(opt.Owner), opt.MAC
	p.receivers.p = p
	if err := p.openInterfaces(); err != nil {
		p.release()
		return nil, err
	}
	if p.loopback != 0 {
		p.sender(p.loopback)
	}
	return p, nil
}

// KeepClaims says whether the claims stay when the plane ends: whoever forwards the
// services' connections meanwhile has the host not reset new ones. The next plane on
// the interfaces replaces them, and Withdraw removes them. It comes before Run.
func (p *Plane) KeepClaims(keep bool) { p.claims.keep = keep }

// Resolver implements dataplane.Resolving.
func (p *Plane) Resolver() dataplane.Resolver { return p.opt.Resolver }

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "afpacket" }

// Run implements dataplane.Plane. When it returns, everything that the plane
// opened is closed and its claims are withdrawn, but for KeepClaims.
func (p *Plane) Run(ctx context.Context, h dataplane.Handler) error {
	p.mu.Lock()
	if p.started || p.closed {
		p.mu.Unlock()
		return errors.New("this plane ran already: make a new one")
	}
	p.started = true
	p.mu.Unlock()

	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return p.resolve(running) })
	p.receivers.run(running, h)
	p.claims.sweep(p.log) // packets do not wait for it
	g.Go(func() error {
		p.watch(running)
		return nil
	})
	g.Go(func() error { return p.links.Run(running, p.ns.do) })
	err := g.Wait()
	p.receivers.stop()
	if closed := p.close(true); err == nil {
		err = closed
	}
	return err
}

// resolve runs the plane's own resolver, if it has one.
func (p *Plane) resolve(ctx context.Context) error {
	if p.resolver == nil {
		return nil
	}
	return p.resolver.Run(ctx)
}

// Close gives back what New opened and withdraws the claims on interfaces that had none
// before. A plane that runs, or ran, ignores it: Run does so itself.
func (p *Plane) Close() error {
	p.mu.Lock()
	skip := p.started || p.closed
	p.started = true
	p.mu.Unlock()
	if skip {
		return nil
	}
	return p.close(false)
}

func (p *Plane) close(ran bool) error {
	err := p.claims.withdraw(ran)
	p.release()
	return err
}

func (p *Plane) release() {
	p.receivers.close()
	if p.links != nil {
		p.links.Close()
	}
	p.mu.Lock()
	p.closed = true
	for _, s := range *p.senders.Load() {
		s.close()
	}
	p.senders.Store(&map[int]*sender{})
	p.mu.Unlock()
	if p.resolver != nil {
		p.resolver.Close()
	}
	p.ns.close()
}

// Claim implements dataplane.Plane with nftables: see claims. It gives
// ErrNoNftables where the kernel has none.
func (p *Plane) Claim(c dataplane.Claims) error { return p.claims.replace(c) }

// Withholds implements dataplane.Plane: the ingress chain drops a claimed
// packet before anybody has decided about it. Behind a program nobody else has the packets.
func (p *Plane) Withholds() bool { return p.opt.Tap == nil || p.opt.Withhold }

// Injects implements dataplane.Plane: it can, unless the host verifies that
// packets come in where answers would go out.
func (p *Plane) Injects() bool { return p.loopback != 0 || !p.Withholds() }

// Lost is how many frames found no room in receive rings so far: rx_ring_lost and rx_syn_lost of Counters.
func (p *Plane) Lost() uint64 {
	for _, r := range p.receivers.all() {
		r.countLosses()
	}
	return p.c.rxRingLost.Load() + p.c.rxSYNLost.Load()
}

// Counters implements dataplane.Plane. Names that start with rx and tx count
// frames; a frame that GRO merged is one.
func (p *Plane) Counters() map[string]uint64 {
	for _, r := range p.receivers.all() {
		r.countLosses()
	}
	all := p.c.all()
	if p.resolver != nil {
		maps.Copy(all, p.resolver.Counters())
	}
	return all
}

// sender finds the sender of an interface, or makes it; nil when it cannot. New and the
// resolver have made those that packets need.
func (p *Plane) sender(ifindex int) *sender {
	if s := (*p.senders.Load())[ifindex]; s != nil && !s.gone.Load() {
		return s
	}
	s, err := p.openSender(ifindex)
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENXIO) { // it is gone, and next hops will know
		p.log.Error("frames cannot be sent", "err", err)
	}
	return s
}

// openSender makes the sender of an interface, if there is none; nil without an error when
// that was tried in vain a moment ago.
func (p *Plane) openSender(ifindex int) (s *sender, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.senders.Load()
	if s := old[ifindex]; s != nil && !s.gone.Load() {
		return s, nil
	}
	// Not again for each frame.
	if p.closed || time.Since(p.failed[ifindex]) < time.Second {
		return nil, nil
	}
	err = p.ns.do(func() (err error) {
		s, err = newSender(ifindex, &p.c)
		return err
	})
	if err != nil {
		maps.DeleteFunc(p.failed, func(_ int, at time.Time) bool { return time.Since(at) >= time.Second })
		p.failed[ifindex] = time.Now()
		return nil, err
	}
	if gone := old[ifindex]; gone != nil {
		gone.close()
	}
	senders := map[int]*sender{ifindex: s}
	for i, other := range old {
		if i != ifindex {
			senders[i] = other
		}
	}
	p.senders.Store(&senders)
	return s, nil
}

// Send implements dataplane.Plane.
func (p *Plane) Send(f *dataplane.Frame) {
	if f.Hop != nil && f.Hop.Neighbor().State != dataplane.HopReachable && f.Hop.Park(f, p.sendParked) {
		p.c.parked.Add(1)
		return
	}
	p.sendParked(f)
}

// sendParked sends a frame that waited for its hop.
func (p *Plane) sendParked(f *dataplane.Frame) {
	// Without a hop it is an answer, in its place.
	var n *dataplane.Neighbor
	ifindex := f.In
	if f.Verdict == dataplane.Host {
		// Where nftables keep the host away they would drop it there.
		if tap := p.receivers.tapOf(f.In); tap != nil && (!p.opt.Withhold || p.loopback == 0) {
			tap.mu.Lock()
			tap.put(f.Data, f.Offload, 0, nil)
			tap.flush()
			tap.mu.Unlock()
			return
		}
		ifindex, n = p.loopback, &p.host
	} else if f.Hop != nil {
		if n = f.Hop.Neighbor(); n.State != dataplane.HopReachable {
			p.c.txNoHop.Add(1)
			return
		}
		ifindex = n.Ifindex
	}
	s := p.sender(ifindex)
	if s == nil {
		p.c.txNoSender.Add(1)
		return
	}
	s.mu.Lock()
	s.transmit(f, n)
	s.flush()
	s.mu.Unlock()
}

// clock is dataplane.Monotonic by way of Go's own reading of it, which is no system call.
type clock struct {
	base  time.Duration
	start time.Time
}

func newClock() clock { return clock{base: dataplane.Monotonic(), start: time.Now()} }

func (c clock) now() time.Duration { return c.base + time.Since(c.start) }
