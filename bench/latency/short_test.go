package latency

import (
	"strings"
	"testing"
	"time"
)

// The measurement works, by every contender and beside every load; turn and takeovers see that
// packets were carried by whom they were to be. Nothing is judged by the time that it took.
func TestLatency(t *testing.T) {
	s := newSite(t, 1<<16)
	all := &table{site: s, list: s.contenders(func(string) bool { return true }), cells: map[string]*cell{}}
	var one []*contender
	for _, c := range all.list {
		r := all.turn(loads[0], c, 20, 4)
		t.Logf("%s: round trips %+v, connect() %+v", c.name, of(r.trips), of(r.opened))
		if strings.HasSuffix(c.name, "/rr") {
			one = append(one, c)
		}
	}
	all.list = one
	for _, l := range loads[1:] {
		for _, c := range one {
			r := all.turn(l, c, 20, 4)
			t.Logf("%s beside %s, of which there were %.0f a second", c.name, l.name, r.done)
		}
	}
	for _, r := range all.takeovers(1) {
		t.Logf("worst at a takeover of %s, in microseconds: %v", r.plane, r.worst)
	}
}

func TestPercentiles(t *testing.T) {
	var list []time.Duration
	for i := range 1000 {
		list = append(list, time.Duration(1000-i))
	}
	if got, want := of(list), (percentiles{500, 900, 990, 999, 1000}); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	if got, want := of([]time.Duration{3, 1, 2}), (percentiles{2, 3, 3, 3, 3}); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
}

// Limits are judged by the median of the rounds' differences.
func TestOver(t *testing.T) {
	var one, other []percentiles
	for i, d := range []time.Duration{1, 9, 2, 3, 1} {
		base := time.Duration(i) * time.Millisecond
		other = append(other, percentiles{p50: base})
		one = append(one, percentiles{p50: base + d*time.Microsecond})
	}
	if got := over(one, other, p50); got != 2 {
		t.Errorf("%v, not 2", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("the median of four is %v", got)
	}
}

// Each limit is where it is to be, and against whom.
func TestLimits(t *testing.T) {
	for name, want := range map[string]limit{
		"round-trip/undisturbed/native/rr":       {bareNative, 1, 3},
		"round-trip/undisturbed/tcx/wlc":         {bareTCX, 1, 3},
		"connect/undisturbed/native/mark-p300":   {forwarding, 5, 20},
		"round-trip/commands/tcx/rr":             {forwarding, 0, 10},
		"connect/syns/native/rr-p300":            {forwarding, 0, 10},
		"connect/undisturbed/tcx/rr":             {},
		"round-trip/undisturbed/afpacket/rr":     {},
		"round-trip/undisturbed/bare-native":     {},
		"round-trip/listings/" + forwarding + "": {},
	} {
		parts := strings.SplitN(name, "/", 3)
		if got, ok := limitOf(parts[0], parts[1], parts[2]); got != want || ok != (want != limit{}) {
			t.Errorf("%s: %+v, %v, not %+v", name, got, ok, want)
		}
	}
}
