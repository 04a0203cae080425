package latency

import (
	"math"
	"slices"
	"time"
)

// percentiles are what a contender has taken in one round.
type percentiles struct{ p50, p90, p99, p999, worst time.Duration }

// of sorts a list.
func of(list []time.Duration) percentiles {
	slices.Sort(list)
	// at is the least that so many of a thousand do not exceed.
	at := func(share int) time.Duration { return list[max(0, (len(list)*share+999)/1000-1)] }
	return percentiles{at(500), at(900), at(990), at(999), list[len(list)-1]}
}

// cell is one contender beside one load, round by round.
type cell struct {
	roundTrips, connects []percentiles
	done                 []float64 // how often a second the load has done something
	preempted            int       // in all rounds
	given                uint64    // to Go, in all rounds
}

// column is one percentile of all rounds, in microseconds.
func column(all []percentiles, which func(percentiles) time.Duration) (list []float64) {
	for _, p := range all {
		list = append(list, float64(which(p))/float64(time.Microsecond))
	}
	return list
}

func p50(p percentiles) time.Duration   { return p.p50 }
func p90(p percentiles) time.Duration   { return p.p90 }
func p99(p percentiles) time.Duration   { return p.p99 }
func p999(p percentiles) time.Duration  { return p.p999 }
func worst(p percentiles) time.Duration { return p.worst }

// median is the one in the middle, or the mean of two.
func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	if n == 0 {
		return math.NaN()
	}
	return (list[(n-1)/2] + list[n/2]) / 2
}

// over is by how much one exceeds another: the median of each round's difference, so that what
// goes on for minutes on a machine is in both.
func over(one, other []percentiles, which func(percentiles) time.Duration) float64 {
	a, b := column(one, which), column(other, which)
	for i := range a {
		a[i] -= b[i]
	}
	return median(a)
}
