package neigh

import (
	"context"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"golang.org/x/sync/errgroup"
)

const (
	// tickEvery bounds how late probes and the end of a hold-down are.
	tickEvery = 250 * time.Millisecond
	// settle is how long changes of routes, links and addresses are collected
	// before they are looked at: they come in bursts.
	settle = 20 * time.Millisecond
	// settleAddress is how long those of addresses are, by which a virtual router becomes
	// another host's.
	settleAddress = 2 * time.Millisecond
	// readAllEvery is how often all is read while notifications are lost.
	readAllEvery = time.Second
)

// Run follows the kernel until ctx ends, and then returns nil. It may be
// called once; it closes the resolver.
func (r *Resolver) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	readers, running := errgroup.WithContext(ctx)
	batches, answers := make(chan batch, 16), make(chan answer, 64)
	overflow := make(chan struct{}, 1)
	readers.Go(func() error { return r.receive(batches, overflow, running.Done()) })
	if r.wire != nil {
		readers.Go(func() error { return r.wire.listenARP(answers, running.Done()) })
		readers.Go(func() error { return r.wire.listenND(answers, running.Done()) })
	}
	r.follow(running, batches, answers, overflow)
	wanted := ctx.Err() != nil
	cancel()
	r.Close() // ends the readers
	if err := readers.Wait(); !wanted {
		return err
	}
	return nil
}

// follow does what Run does, with what its readers read.
func (r *Resolver) follow(ctx context.Context, batches <-chan batch, answers <-chan answer, overflow <-chan struct{}) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	var settled <-chan time.Time
	soon := false // it is of addresses
	var readAll time.Time
	everything := false
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-batches:
			switch other := r.take(b); {
			case other && b.address && !everything && !soon:
				settled, soon = time.After(settleAddress), true
			case other && settled == nil:
				settled = time.After(settle)
			}
		case a := <-answers:
			r.hear(a)
		case <-overflow:
			now := time.Now()
			r.complain(&r.lostAt, now, "routes or neighbours changed faster than the changes could be read; reading the kernel's tables again")
			if !everything {
				everything = true
				settled = time.After(max(settle, readAll.Add(readAllEvery).Sub(now)))
			}
		case <-settled:
			settled, soon = nil, false
			if everything {
				readAll = time.Now()
			}
			if err := r.resync(everything); err != nil {
				// Most likely too busy; without a retry we would be stale.
				r.log.Warn("cannot read the kernel's routes and neighbours; trying again", "err", err)
				settled = time.After(time.Second)
				continue
			}
			everything = false
		case h := <-r.wants:
			r.startResolving(h)
		case <-ticker.C:
			r.tickAll()
		}
	}
}

// take carries out the notifications about neighbours at once, and reports
// whether something else changed too, for which a resync is due.
func (r *Resolver) take(b batch) (other bool) {
	now := time.Now()
	changed := false
	r.mu.Lock()
	if b.other && !r.unsettled {
		r.unsettled, changed = true, true
	}
	for _, n := range b.notices {
		if e := r.entries[n.key]; e != nil {
			changed = r.learn(e, n.state, n.removed, now) || changed
		}
	}
	var changes []change
	if changed {
		changes = r.changes(now)
	}
	r.mu.Unlock()
	publish(changes)
	return b.other
}

// hear takes a neighbour's answer.
func (r *Resolver) hear(a answer) {
	now := time.Now()
	var changes []change
	r.mu.Lock()
	if r.accept(a, now) {
		changes = r.changes(now)
	}
	r.mu.Unlock()
	publish(changes)
}

// startResolving starts resolving h, for which a frame waits.
func (r *Resolver) startResolving(h *hop) {
	now := time.Now()
	r.mu.Lock()
	if e := h.entry; e != nil && !e.valid() && !e.asking() {
		r.resolve(e, now)
	}
	h.wanted.Store(false)
	changes := r.changes(now)
	r.mu.Unlock()
	publish(changes)
}

func (r *Resolver) tickAll() {
	now := time.Now()
	r.mu.Lock()
	asking := false
	for _, e := range r.entries {
		r.tick(e, now)
		asking = asking || e.heard()
	}
	if !asking {
		r.hush()
	}
	changes := r.changes(now)
	r.mu.Unlock()
	publish(changes)
}

type change struct {
	hop *dataplane.NextHop
	to  dataplane.Neighbor
}

// changes lists the hops whose published state is not what it should be. The
// list is published after the lock is given back, because that sends parked
// frames. Only Run's goroutine does so, so the order is kept.
func (r *Resolver) changes(now time.Time) []change {
	var out []change
	for _, h := range r.hops {
		if n := r.neighbor(h, now); n != *h.next.Neighbor() {
			out = append(out, change{h.next, n})
		}
	}
	return out
}

func publish(list []change) {
	for _, c := range list {
		c.hop.Set(c.to)
	}
}
