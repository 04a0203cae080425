package ratelimit

// budget is so many a second for each interface, a tenth of them at once.
type budget struct {
	rate    uint32 // 0: any number
	hz      uint32
	buckets map[int]*bucket // by interface
}

// mostBuckets bounds of how many interfaces the budget is known. One that is made anew has
// another number; beyond, all begin anew.
const mostBuckets = 1024

// bucket has credit in parts: hz of them are one RST.
type bucket struct {
	parts uint64
	last  uint32
}

// bursts is what part of a second's budget may be spent at once.
const bursts = 10

// newBudget makes a budget; what is above 1<<30 a second is no limit to any interface.
func newBudget(rate int, hz uint32) budget {
	return budget{rate: uint32(min(max(rate, 0), 1<<30)), hz: hz, buckets: map[int]*bucket{}}
}

// RST says whether a RST may be sent out of an interface at tick now, and counts it.
func (r *Limiter) RST(ifindex int, now uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resets.allows(ifindex, now) {
		return true
	}
	r.suppressed.RSTs++
	return false
}

func (b *budget) allows(ifindex int, now uint32) bool {
	if b.rate == 0 {
		return true
	}
	most := uint64(max(b.rate/bursts, 1)) * uint64(b.hz)
	k := b.buckets[ifindex]
	if k == nil {
		if len(b.buckets) >= mostBuckets {
			clear(b.buckets)
		}
		k = &bucket{parts: most, last: now}
		b.buckets[ifindex] = k
	}
	if since := elapsed(k.last, now); since > 0 {
		k.parts = min(k.parts+uint64(since)*uint64(b.rate), most)
		k.last = now
	}
	if k.parts < uint64(b.hz) {
		return false
	}
	k.parts -= uint64(b.hz)
	return true
}
