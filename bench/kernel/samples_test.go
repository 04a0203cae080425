package kernel

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// sample is a round's outcome, which the guest prints as a line and the host reads.
type sample struct {
	load, contender string
	instructions    float64 // a packet of each step, with everything
}

const sampleWord = "sample:"

func (s sample) String() string {
	return fmt.Sprintf("%s %s %s %.2f", sampleWord, s.load, s.contender, s.instructions)
}

// results are samples by load and contender.
type results map[[2]string][]float64

// read adds the samples among the lines of a guest's output, which is written to by
// the kernel's and the libraries' warnings too.
func (r results) read(output io.Reader) error {
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		text, is := strings.CutPrefix(lines.Text(), sampleWord)
		if !is {
			continue
		}
		var s sample
		if _, err := fmt.Sscan(text, &s.load, &s.contender, &s.instructions); err != nil {
			return fmt.Errorf("a guest printed %q: %w", lines.Text(), err)
		}
		at := [2]string{s.load, s.contender}
		r[at] = append(r[at], s.instructions)
	}
	return lines.Err()
}

// figure is what a packet of a load, or a connection of six, takes with a contender: medians.
type figure struct {
	all    float64 // with everything
	net    float64 // without what the wire of its kind takes
	over   float64 // without what the least forwarder of its kind takes
	fewer  float64 // how many times less than the reference's net
	spread float64 // from the least to the most, as a share of all
}

// figure subtracts the bases of the contender's kind. It reports false if a sample is
// missing.
func (r results) figure(l load, c contender) (f figure, ok bool) {
	against, _ := contenderOf(reference)
	var missing bool
	median := func(name string) float64 {
		list := r[[2]string{l.name, name}]
		if len(list) == 0 {
			missing = true
			return 0
		}
		return median(list)
	}
	f.all = median(c.name)
	f.net, f.over = f.all-median(c.by.wire), f.all-median(c.by.bare)
	f.fewer = (median(reference) - median(against.by.wire)) / f.net
	if missing {
		return figure{}, false
	}
	list := r[[2]string{l.name, c.name}]
	f.spread = (slices.Max(list) - slices.Min(list)) / f.all
	return f, true
}

// median of at least one number.
func median(list []float64) float64 {
	list = slices.Clone(list)
	slices.Sort(list)
	n := len(list)
	return (list[(n-1)/2] + list[n/2]) / 2
}

func TestResults(t *testing.T) {
	r := results{}
	const name = "new/rr/2"
	l := loads[slices.IndexFunc(loads, func(l load) bool { return l.name == name })]
	output := strings.Join([]string{
		"time=0 level=WARN something else",
		sample{name, "ipvs", 7000}.String(),
		sample{name, "wire-skb", 1400.25}.String(),
		sample{name, "bare-skb", 3400}.String(),
		sample{name, "ipvs", 7100}.String(),
		sample{name, "ipvs", 6900}.String(),
		sample{name, "wire-xdp", 900}.String(),
		sample{name, "bare-xdp", 1200}.String(),
		sample{name, "ulvs-native", 2500}.String(),
		"PASS",
	}, "\n")
	if err := r.read(strings.NewReader(output)); err != nil {
		t.Fatal(err)
	}
	for who, want := range map[string]string{
		"ipvs":          "7000.00, 5599.75 net, 3600.00 over bare, 1.00 times, spread 0.0286, true",
		"bare-skb":      "3400.00, 1999.75 net, 0.00 over bare, 2.80 times, spread 0.0000, true",
		"ulvs-native":   "2500.00, 1600.00 net, 1300.00 over bare, 3.50 times, spread 0.0000, true",
		"ulvs-afpacket": "0.00, 0.00 net, 0.00 over bare, 0.00 times, spread 0.0000, false",
	} {
		c, _ := contenderOf(who)
		f, ok := r.figure(l, c)
		got := fmt.Sprintf("%.2f, %.2f net, %.2f over bare, %.2f times, spread %.4f, %v",
			f.all, f.net, f.over, f.fewer, f.spread, ok)
		if got != want {
			t.Errorf("%s: %s, not %s", who, got, want)
		}
	}
	if err := r.read(strings.NewReader(sampleWord + " new/rr/2 ipvs")); err == nil {
		t.Error("a line that is cut off is taken")
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("the median of 1 to 4 is %v", m)
	}
}
