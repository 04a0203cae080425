// Package estimator makes what ipvsadm --stats and --rate show out of live
// counters, as the kernel's estimator does every two seconds
// (net/netfilter/ipvs/ip_vs_est.c).
package estimator

import "time"

// Period is the time between two rounds.
const Period = 2 * time.Second

// Counter counts what came in. Nothing comes out through the director in direct
// routing.
type Counter struct{ Conns, Packets, Bytes uint64 }

// Add counts what another one has.
func (c *Counter) Add(o Counter) {
	c.Conns += o.Conns
	c.Packets += o.Packets
	c.Bytes += o.Bytes
}

// Rate is per second.
type Rate struct{ Conns, Packets, Bytes uint64 }

// Estimator watches one live counter, which its owner counts up. The zero value
// works. It is not safe for concurrent use.
type Estimator struct {
	Counter

	seen    Counter // at the last round: what is shown
	zero    Counter // at the last Zero, subtracted from what is shown
	last    Counter // at the round before, or at Zero
	c, p, b int64   // averages, scaled: connections and packets by 2^10, bytes by 2^5
}

// Round takes the counter's present value and brings the rates up to date:
// averages over about eight seconds (estimation_timer).
func (e *Estimator) Round() {
	e.seen = e.Counter
	average := func(rate *int64, now, before uint64, shift uint) {
		*rate += (int64((now-before)<<shift) - *rate) >> 2
	}
	// One less than the scale, as a round is two seconds.
	average(&e.c, e.seen.Conns, e.last.Conns, 9)
	average(&e.p, e.seen.Packets, e.last.Packets, 9)
	average(&e.b, e.seen.Bytes, e.last.Bytes, 4)
	e.last = e.seen
}

// Zero makes what was last shown the new zero, and the rates 0
// (ip_vs_zero_stats).
func (e *Estimator) Zero() {
	e.zero, e.last = e.seen, e.seen
	e.c, e.p, e.b = 0, 0, 0
}

// Shown is the counter at the last round, from the last Zero on
// (ip_vs_copy_stats).
func (e *Estimator) Shown() Counter {
	return Counter{e.seen.Conns - e.zero.Conns, e.seen.Packets - e.zero.Packets, e.seen.Bytes - e.zero.Bytes}
}

// Rate is rounded up but for the smallest fraction (ip_vs_read_estimator).
func (e *Estimator) Rate() Rate {
	return Rate{uint64(e.c+0x1ff) >> 10, uint64(e.p+0x1ff) >> 10, uint64(e.b+0xf) >> 5}
}
