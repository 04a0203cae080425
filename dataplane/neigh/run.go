package neigh

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// tickEvery bounds how late probes and the end of a hold-down are.
	tickEvery = 250 * time.Millisecond
	// settle is how long changes of routes, links and addresses are collected
	// before they are looked at: they come in bursts.
	settle = 20 * time.Millisecond
)

// Run follows the kernel until ctx ends, and then returns nil. It may be
// called once; it closes the resolver.
func (r *Resolver) Run(ctx context.Context) error {
	messages := make(chan []syscall.NetlinkMessage, 16)
	overflow := make(chan struct{}, 1)
	failed := make(chan error, 1)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		failed <- r.receive(ctx, messages, overflow)
	}()
	defer func() {
		cancel()
		r.Close() // ends receive
		<-done
	}()

	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	var settled <-chan time.Time
	everything := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case batch := <-messages:
			if r.take(batch) && settled == nil {
				settled = time.After(settle)
			}
		case <-overflow:
			r.log.Warn("neigh: notifications were lost; reading all tables again")
			everything = true
			settled = time.After(settle)
		case <-settled:
			settled = nil
			if err := r.resync(everything); err != nil {
				// Most likely too busy; without a retry we would be stale.
				r.log.Warn("neigh: cannot read the tables; trying again", "err", err)
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

// receive passes notifications on until the socket is closed.
func (r *Resolver) receive(ctx context.Context, out chan<- []syscall.NetlinkMessage, overflow chan<- struct{}) error {
	for {
		batch, from, err := r.events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			select {
			case overflow <- struct{}{}:
			default:
			}
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("neigh: rtnetlink notifications ended: %w", err)
		case from.Pid != 0:
			continue // not the kernel
		}
		select {
		case out <- batch:
		case <-ctx.Done():
			return nil
		}
	}
}

// take carries out the notifications about neighbours at once, and reports
// whether something else changed too, for which a resync is due.
func (r *Resolver) take(batch []syscall.NetlinkMessage) (other bool) {
	now := time.Now()
	changed := false
	r.mu.Lock()
	for i := range batch {
		m := &batch[i]
		if m.Header.Type != unix.RTM_NEWNEIGH && m.Header.Type != unix.RTM_DELNEIGH {
			other = true
			continue
		}
		n, err := netlink.NeighDeserialize(m.Data)
		if err != nil {
			continue
		}
		k, s, ok := decode(n)
		if !ok {
			continue
		}
		if m.Header.Type == unix.RTM_DELNEIGH {
			delete(r.table, k)
			s = state{}
		} else {
			r.table[k] = s
		}
		if e := r.entries[k]; e != nil {
			changed = r.learn(e, s, now) || changed
		}
	}
	var changes []change
	if changed {
		changes = r.changes(now)
	}
	r.mu.Unlock()
	publish(changes)
	return other
}

// startResolving starts resolving h, for which a frame waits.
func (r *Resolver) startResolving(h *hop) {
	now := time.Now()
	r.mu.Lock()
	if e := h.entry; e != nil && !e.valid() && !e.asking(now) {
		r.ask(e, now)
	}
	h.wanted.Store(false)
	changes := r.changes(now)
	r.mu.Unlock()
	publish(changes)
}

func (r *Resolver) tickAll() {
	now := time.Now()
	r.mu.Lock()
	for _, e := range r.entries {
		r.tick(e, now)
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
