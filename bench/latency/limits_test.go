package latency

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// limit is by how much a contender may exceed another one beside the same load, in microseconds.
type limit struct {
	of       string // whom it is compared with
	p50, p99 float64
}

// takeoverLimit is for the worst round trip, in microseconds.
const takeoverLimit = 2000

// limitOf is what is judged. A packet of an established connection is compared with bare XDP of
// the same mode; connect() and whatever has something beside it, with kernel forwarding.
func limitOf(what, load, contender string) (l limit, ok bool) {
	plane, kind, is := strings.Cut(contender, "/")
	switch {
	case !is || kind == "" || plane == "afpacket" || what == "connect" && plane != "native":
		return l, false
	case load != undisturbed:
		return limit{of: forwarding, p99: 10}, true
	case what == "connect":
		return limit{of: forwarding, p50: 5, p99: 20}, true
	case plane == "native":
		return limit{of: bareNative, p50: 1, p99: 3}, true
	}
	return limit{of: bareTCX, p50: 1, p99: 3}, true
}

// report prints a contender's figures in the format of Go's benchmarks, with what is judged:
// "limit-X" beside X.
func (t *table) report(b *testing.B, what, load, contender string) {
	for b.Loop() {
	}
	b.ReportMetric(0, "ns/op")
	rounds := func(name string) []percentiles {
		if what == "connect" {
			return t.cell(load, name).connects
		}
		return t.cell(load, name).roundTrips
	}
	all := rounds(contender)
	for _, f := range []struct {
		unit  string
		which func(percentiles) time.Duration
	}{{"p50-us", p50}, {"p90-us", p90}, {"p99-us", p99}, {"p99.9-us", p999}} {
		b.ReportMetric(median(column(all, f.which)), f.unit)
	}
	b.ReportMetric(slices.Max(column(all, worst)), "worst-us")
	b.ReportMetric(float64(t.cell(load, contender).preempted), "preempted")
	if strings.Contains(contender, "/") { // has a daemon of its own
		b.ReportMetric(float64(t.cell(load, contender).given), "frames-to-go")
	}
	if load != undisturbed {
		b.ReportMetric(median(t.cell(load, contender).done), load+"/s")
	}
	l, ok := limitOf(what, load, contender)
	if !ok {
		return
	}
	if l.p50 > 0 {
		judge(b, "over-p50-us", over(all, rounds(l.of), p50), l.p50)
	}
	judge(b, "over-p99-us", over(all, rounds(l.of), p99), l.p99)
}

func (r *takeovers) report(b *testing.B) {
	for b.Loop() {
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(slices.Max(r.worst), "worst-us")
	judge(b, "median-worst-us", median(r.worst), takeoverLimit)
}

// judge prints a figure with its limit, and whether it holds.
func judge(b *testing.B, unit string, value, limit float64) {
	b.ReportMetric(value, unit)
	b.ReportMetric(limit, "limit-"+unit)
	word := "pass"
	if value > limit {
		word = "fail"
	}
	b.Logf("%s: %.2f of %v: %s", unit, value, limit, word)
}
