// Package dataplanetest is a dataplane.Plane and a dataplane.Resolver in
// memory, for tests: frames are injected, verdicts are read, time stands
// still until the test moves it, and neighbours are what the test says.
package dataplanetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// Result is what became of a frame.
type Result struct {
	// Verdict is the handler's.
	Verdict dataplane.Verdict
	// Data is the frame as it would be on the wire, link addresses written,
	// if it was sent; else as the handler left it. It belongs to the plane
	// and is valid until the next Deliver; a Result of Sent keeps its own.
	Data []byte
	// Offload is what Data still owes the wire.
	Offload dataplane.Offload
	// Hop is where the handler sent it; nil: out of In.
	Hop *dataplane.NextHop
	// In is the interface that the frame came in on, Out the one that it left
	// by, 0 if it did not.
	In, Out int
	// Parked is true when the frame waits for its hop; see Sent.
	Parked bool
}

// Plane is a dataplane.Plane in memory. Make one with New. Deliver must not be
// called twice at a time; all else is safe for concurrent use.
type Plane struct {
	// Hops is the resolver that the plane brings; its neighbours are what it is told.
	Hops *Resolver

	buffers [][]byte
	rooms   [][]byte
	batch   []dataplane.Frame
	results []Result

	mu        sync.Mutex // guards all below
	handler   dataplane.Handler
	now       time.Duration
	claims    dataplane.Claims
	claimed   int
	claimErr  error
	withholds bool
	injects   bool
	limits    dataplane.ErrorLimits
	limitsErr error
	sent      []Result
	c         counts
}

type counts struct{ rx, tx, passed, dropped, parked, lost uint64 }

var _ dataplane.Plane = (*Plane)(nil)
var _ dataplane.Limiting = (*Plane)(nil)

// New makes a plane whose clock stands at one hour, so that subtracting from
// it stays positive.
func New() *Plane {
	return &Plane{now: time.Hour, Hops: NewResolver(), limits: dataplane.DefaultErrorLimits()}
}

// Resolver implements dataplane.Resolving.
func (p *Plane) Resolver() dataplane.Resolver { return p.Hops }

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "test" }

// Attach makes h the handler of what Deliver is given.
func (p *Plane) Attach(h dataplane.Handler) {
	p.mu.Lock()
	p.handler = h
	p.mu.Unlock()
}

// Run implements dataplane.Plane: it attaches h until ctx ends.
func (p *Plane) Run(ctx context.Context, h dataplane.Handler) error {
	p.Attach(h)
	<-ctx.Done()
	p.Attach(nil)
	return nil
}

// Now returns the time that the next batch is given.
func (p *Plane) Now() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Advance moves the clock by d.
func (p *Plane) Advance(d time.Duration) {
	p.mu.Lock()
	p.now += d
	p.mu.Unlock()
}

// Deliver gives the handler one batch of copies of frames (their Data,
// Offload and In), carries out its verdicts and says what became of each, in
// their order. Nothing is allocated once a batch of such size was seen. It
// panics when no handler is attached: the test forgot it.
func (p *Plane) Deliver(frames ...dataplane.Frame) []Result {
	p.mu.Lock()
	h, now := p.handler, p.now
	p.mu.Unlock()
	if h == nil {
		panic(errors.New("dataplanetest: no handler: call Attach or Run first"))
	}
	for len(p.buffers) < len(frames) {
		p.buffers = append(p.buffers, nil)
		p.rooms = append(p.rooms, make([]byte, 0, 2048))
	}
	p.batch, p.results = p.batch[:0], p.results[:0]
	for i := range frames {
		p.buffers[i] = append(p.buffers[i][:0], frames[i].Data...)
		n := len(p.buffers[i])
		p.batch = append(p.batch, dataplane.Frame{Data: p.buffers[i][:n:n], Offload: frames[i].Offload,
			In: frames[i].In, Room: p.rooms[i]})
	}
	h.Handle(now, p.batch)
	var c counts
	for i := range p.batch {
		p.results = append(p.results, p.carryOut(&p.batch[i], &c))
	}
	p.mu.Lock()
	p.c.rx += uint64(len(p.batch))
	p.c.tx += c.tx
	p.c.passed += c.passed
	p.c.dropped += c.dropped
	p.c.parked += c.parked
	p.c.lost += c.lost
	p.mu.Unlock()
	return p.results
}

// carryOut does what a plane does after Handle returned.
func (p *Plane) carryOut(f *dataplane.Frame, c *counts) Result {
	r := Result{Verdict: f.Verdict, Data: f.Data, Offload: f.Offload, Hop: f.Hop, In: f.In}
	switch f.Verdict {
	case dataplane.Pass, dataplane.Host:
		c.passed++
		return r
	case dataplane.Drop:
		c.dropped++
		return r
	}
	if f.Hop == nil {
		r.Out = f.In
		c.tx++
		return r
	}
	n := f.Hop.Neighbor()
	if n.State == dataplane.HopResolving || n.State == dataplane.HopUnreachable {
		if f.Hop.Park(f, p.late) {
			r.Parked = true
			c.parked++
			return r
		}
		n = f.Hop.Neighbor()
	}
	if n.State != dataplane.HopReachable {
		c.lost++
		return r
	}
	address(r.Data, n)
	r.Out = n.Ifindex
	c.tx++
	return r
}

func address(frame []byte, n *dataplane.Neighbor) {
	if len(frame) >= 12 {
		copy(frame, n.Dst[:])
		copy(frame[6:], n.Src[:])
	}
}

// Send implements dataplane.Plane: the frame is among Sent.
func (p *Plane) Send(f *dataplane.Frame) {
	if f.Hop != nil && f.Hop.Neighbor().State != dataplane.HopReachable && f.Hop.Park(f, p.late) {
		return
	}
	p.late(f)
}

// late sends a frame that was parked.
func (p *Plane) late(f *dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.Hop == nil { // an answer, or the host's
		p.c.tx++
		p.sent = append(p.sent, Result{Verdict: f.Verdict, Data: f.Data, In: f.In, Out: f.In})
		return
	}
	n := f.Hop.Neighbor()
	if n.State != dataplane.HopReachable {
		p.c.lost++
		return
	}
	address(f.Data, n)
	p.c.tx++
	p.sent = append(p.sent, Result{Verdict: f.Verdict, Data: f.Data, Offload: f.Offload, Hop: f.Hop, In: f.In,
		Out: n.Ifindex})
}

// Sent returns the parked frames that were sent since it was called last, in
// the order in which they were.
func (p *Plane) Sent() []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.sent
	p.sent = nil
	return out
}

// Claim implements dataplane.Plane: it keeps the claims, or, after FailClaims,
// refuses them.
func (p *Plane) Claim(c dataplane.Claims) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claimErr != nil {
		return p.claimErr
	}
	p.claims = c
	p.claimed++
	return nil
}

// Claims returns the last claims, and how many there were so far.
func (p *Plane) Claims() (last dataplane.Claims, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claims, p.claimed
}

// FailClaims has Claim give err from now on; nil: accept them again.
func (p *Plane) FailClaims(err error) {
	p.mu.Lock()
	p.claimErr = err
	p.mu.Unlock()
}

// SetErrorLimits sets what ErrorLimits says: the kernel's defaults at first.
func (p *Plane) SetErrorLimits(l dataplane.ErrorLimits, err error) {
	p.mu.Lock()
	p.limits, p.limitsErr = l, err
	p.mu.Unlock()
}

// ErrorLimits implements dataplane.Limiting.
func (p *Plane) ErrorLimits() (dataplane.ErrorLimits, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits, p.limitsErr
}

// SetWithholds sets what Withholds reports; false at first. Call it before
// the plane is handed out.
func (p *Plane) SetWithholds(yes bool) {
	p.mu.Lock()
	p.withholds = yes
	p.mu.Unlock()
}

// SetInjects sets what Injects reports; false at first.
func (p *Plane) SetInjects(yes bool) {
	p.mu.Lock()
	p.injects = yes
	p.mu.Unlock()
}

// Injects implements dataplane.Plane.
func (p *Plane) Injects() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.injects
}

// Withholds implements dataplane.Plane.
func (p *Plane) Withholds() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.withholds
}

// Counters implements dataplane.Plane.
func (p *Plane) Counters() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return map[string]uint64{
		"rx_frames": p.c.rx, "tx_frames": p.c.tx, "passed": p.c.passed,
		"dropped": p.c.dropped, "parked": p.c.parked, "tx_no_hop": p.c.lost,
	}
}
