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
	instructions float64 // the median, without the wire's
	spread       float64 // from the least to the most, as a share of the median
}

// figure subtracts what the wire takes. It reports false if there is no sample.
func (r results) figure(load, contender string) (f figure, ok bool) {
	all, base := slices.Clone(r[[2]string{load, contender}]), r[[2]string{load, "wire"}]
	if len(all) == 0 || len(base) == 0 {
		return figure{}, false
	}
	slices.Sort(all)
	f.instructions = median(all) - median(base)
	f.spread = (all[len(all)-1] - all[0]) / f.instructions
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
	output := strings.Join([]string{
		"time=0 level=WARN something else",
		sample{"new/plain", "ipvs-1M", 7000}.String(),
		sample{"new/plain", "wire", 400.25}.String(),
		sample{"new/plain", "ipvs-1M", 7100}.String(),
		sample{"new/plain", "ipvs-1M", 6900}.String(),
		"PASS",
	}, "\n")
	if err := r.read(strings.NewReader(output)); err != nil {
		t.Fatal(err)
	}
	f, ok := r.figure("new/plain", "ipvs-1M")
	if !ok || f.instructions != 6599.75 || f.spread < 0.0303 || f.spread > 0.0304 {
		t.Errorf("%+v, %v", f, ok)
	}
	if f, ok := r.figure("new/plain", "forward"); ok {
		t.Errorf("of no samples: %+v", f)
	}
	if err := r.read(strings.NewReader(sampleWord + " new/plain ipvs-1M")); err == nil {
		t.Error("a line that is cut off is taken")
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("the median of 1 to 4 is %v", m)
	}
}
