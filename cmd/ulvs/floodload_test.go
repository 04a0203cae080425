package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// floodPatience is after what time an exchange, or an attempt to connect, counts as lost.
	floodPatience = 5 * time.Second
	// oneSYN is what a client needs at most that has lost one SYN, which comes again after a
	// second, and atOnce what one needs at most that has lost nothing.
	oneSYN = 1100 * time.Millisecond
	atOnce = 900 * time.Millisecond

	floodEstablished = 200
	floodPace        = 100 * time.Millisecond // between exchanges of an established connection
	floodNew         = 50                     // clients a second
	floodAfter       = 5 * time.Second
)

// floodLoad is what a flood must not hurt: established connections that exchange eight bytes
// each 100 ms, and clients that come anew.
type floodLoad struct {
	*floodSite
	end     chan bool
	running sync.WaitGroup

	mu          sync.Mutex
	flows       int     // established connections
	established []error // how those ended that did
	exchanges   int
	longest     time.Duration
	fresh       []freshClient
}

// freshClient is one that came anew.
type freshClient struct {
	began time.Time
	took  time.Duration
	err   error
}

// establish opens connections, which exchange until the load ends.
func (l *floodLoad) establish(t *testing.T, n int, patience time.Duration) {
	t.Helper()
	var conns []net.Conn
	for range n {
		c, err := l.dialNew(patience)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			_, err = exchange(c, patience)
		}
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	l.flows += n
	for i, c := range conns {
		l.running.Go(func() {
			pause := time.Duration(i) * floodPace / time.Duration(n)
			for {
				select {
				case <-l.end:
					return
				case <-time.After(pause):
				}
				took, err := exchange(c, patience)
				pause = max(0, floodPace-took)
				l.mu.Lock()
				l.exchanges++
				l.longest = max(l.longest, took)
				if err != nil {
					l.established = append(l.established, err)
				}
				l.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
}

// client comes anew: it connects, exchanges eight bytes and goes.
func (l *floodLoad) client(patience time.Duration) {
	began := time.Now()
	c, err := l.dialNew(patience)
	if err == nil {
		_, err = exchange(c, patience)
		c.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh = append(l.fresh, freshClient{began, time.Since(began), err})
}

// comeAnew has clients come at a rate until the load ends.
func (l *floodLoad) comeAnew() {
	l.running.Go(func() {
		tick := time.NewTicker(time.Second / floodNew)
		defer tick.Stop()
		for {
			select {
			case <-l.end:
				return
			case <-tick.C:
				l.running.Go(func() { l.client(floodPatience) })
			}
		}
	})
}

// stop ends the load.
func (l *floodLoad) stop() {
	close(l.end)
	l.running.Wait()
}

// floodResult is what became of the load.
type floodResult struct {
	flows                            int // established connections
	exchanges, reset, timedOut, lost int // theirs; lost is otherwise
	longest                          time.Duration
	fresh, served, inTime            int
	slowest                          time.Duration // of those who were served
	freshErrors                      map[string]int
	after, afterAtOnce               int
	late                             []string // of those after the flood, who was not served at once
}

func (l *floodLoad) result(floodEnd time.Time) (r floodResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.flows, r.exchanges, r.longest = l.flows, l.exchanges, l.longest
	for _, err := range l.established {
		switch {
		case errors.Is(err, syscall.ECONNRESET):
			r.reset++
		case errors.Is(err, os.ErrDeadlineExceeded):
			r.timedOut++
		default:
			r.lost++
		}
	}
	r.freshErrors = map[string]int{}
	for _, c := range l.fresh {
		if !c.began.Before(floodEnd) {
			r.after++
			if c.err == nil && c.took <= atOnce {
				r.afterAtOnce++
				continue
			}
			r.late = append(r.late, fmt.Sprintf("after %v in %v: %v", c.began.Sub(floodEnd).Round(time.Millisecond),
				c.took.Round(time.Millisecond), c.err))
			continue
		}
		r.fresh++
		if c.err != nil {
			r.freshErrors[kind(c.err)]++
			continue
		}
		r.served++
		r.slowest = max(r.slowest, c.took)
		if c.took <= oneSYN {
			r.inTime++
		}
	}
	return r
}

// kind is an error without addresses.
func kind(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	}
	return err.Error()
}

func (r floodResult) String() string {
	var failed []string
	for k, n := range r.freshErrors {
		failed = append(failed, fmt.Sprint(k, " ", n))
	}
	slices.Sort(failed)
	return fmt.Sprintf("established %d: %d reset, %d timed out, %d ended otherwise (%d exchanges, longest %v) | "+
		"new clients %d: %d served, %d within %v, %d failed [%s], slowest %v | after the flood %d: %d at once",
		r.flows, r.reset, r.timedOut, r.lost, r.exchanges, r.longest.Round(time.Millisecond),
		r.fresh, r.served, r.inTime, oneSYN, r.fresh-r.served, strings.Join(failed, ", "), r.slowest.Round(time.Millisecond),
		r.after, r.afterAtOnce)
}

// judge says what is beyond the limits.
func (r floodResult) judge() (bad []string) {
	if n := r.reset + r.timedOut + r.lost; n > 0 {
		bad = append(bad, fmt.Sprintf("%d established connections ended", n))
	}
	if r.inTime*100 < r.fresh*99 || r.fresh == 0 {
		bad = append(bad, fmt.Sprintf("%d of %d new clients were served within %v, of which 99 %% should be", r.inTime, r.fresh, oneSYN))
	}
	if r.afterAtOnce < r.after || r.after == 0 {
		bad = append(bad, fmt.Sprintf("%d of %d that began after the flood were served at once; not those %s", r.afterAtOnce, r.after,
			strings.Join(r.late, ", ")))
	}
	return bad
}
