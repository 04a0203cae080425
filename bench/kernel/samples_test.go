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
	instructions    float64 // a packet, the wire's included
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

// figure is what a packet of a load takes with a contender.
type figure struct {
	instructions float64 // the median, without the generator's and the sink's
	spread       float64 // from the least to the most, as a share of that
	all          float64 // the median, with everything
}

// figure subtracts what the generator and the sink take. It reports false if a
// sample is missing.
func (r results) figure(l load, c contender) (f figure, ok bool) {
	all, ok := r[[2]string{l.name, c.name}]
	base, known := r.base(l, c.sink(l))
	if !ok || !known {
		return figure{}, false
	}
	f.all = median(all)
	f.instructions = f.all - base
	f.spread = (slices.Max(all) - slices.Min(all)) / f.instructions
	return f, true
}

// base is what generator and sink take of a packet. An XDP sink counts as it does in
// the wire's rounds; a plain one, by how much less a socket has to do where there is
// none.
func (r results) base(l load, k sinkKind) (instructions float64, ok bool) {
	if k != plainSink {
		return r.median(l.name, "wire")
	}
	generator, ok1 := r.median(l.name, "generator")
	into, ok2 := r.median(sinkLoad, intoSink)
	without, ok3 := r.median(sinkLoad, intoDummy)
	return generator + into - without, ok1 && ok2 && ok3
}

func (r results) median(load, contender string) (float64, bool) {
	list := r[[2]string{load, contender}]
	if len(list) == 0 {
		return 0, false
	}
	return median(list), true
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
	newPlain := loads[3]
	output := strings.Join([]string{
		"time=0 level=WARN something else",
		sample{"new/plain", "ipvs-1M", 7000}.String(),
		sample{"new/plain", "wire", 400.25}.String(),
		sample{"new/plain", "ipvs-1M", 7100}.String(),
		sample{"new/plain", "ipvs-1M", 6900}.String(),
		sample{"new/plain", "generator", 300}.String(),
		sample{"new/plain", "ulvs-xdp", 5000}.String(),
		sample{"new/plain", "ulvs-afpacket", 7800}.String(),
		sample{sinkLoad, intoSink, 3800}.String(),
		sample{sinkLoad, intoDummy, 2000}.String(),
		"PASS",
	}, "\n")
	if err := r.read(strings.NewReader(output)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ipvs-1M":       "6599.75 instructions, spread 0.0303, true",
		"ulvs-xdp":      "4599.75 instructions, spread 0.0000, true",
		"ulvs-afpacket": "5700.00 instructions, spread 0.0000, true",
		"ipvs-4k":       "0.00 instructions, spread 0.0000, false",
	} {
		c, _ := contenderOf(name)
		f, ok := r.figure(newPlain, c)
		if got := fmt.Sprintf("%.2f instructions, spread %.4f, %v", f.instructions, f.spread, ok); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	if err := r.read(strings.NewReader(sampleWord + " new/plain ipvs-1M")); err == nil {
		t.Error("a line that is cut off is taken")
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("the median of 1 to 4 is %v", m)
	}
}
