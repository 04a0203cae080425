package rounds

import (
	"fmt"
	"slices"
	"testing"
)

// Report prints figures in the format of Go's benchmarks, a line a contender, for
// benchstat: medians, but for spread.
//
//   - ns/packet: processor time for a packet, of everything
//   - Mpps: what one CPU could do of it, in millions a second
//   - of-bare: the share of the first contender's throughput on the same CPU; the
//     median of each round's share
//   - over-bare-ns/packet: how much more than the first one it takes; unlike the share,
//     this does not hang on what the wire costs on the machine
//   - spread: the difference between the slowest and the fastest round, of the median
//   - threads-ns/packet: the part of it in the contender's own threads
//   - bpf-ns/packet: the BPF program alone, by the kernel's statistics
//   - lost-rounds: rounds that were repeated because frames were missing
func Report(b *testing.B, all []Figures) {
	for _, f := range all {
		b.Run(f.Name, func(b *testing.B) {
			for b.Loop() {
			}
			m := Median(f.All)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(m, "ns/packet")
			b.ReportMetric(1e3/m, "Mpps")
			b.ReportMetric(f.Of(all[0]), "of-bare")
			b.ReportMetric(m-Median(all[0].All), "over-bare-ns/packet")
			b.ReportMetric((slices.Max(f.All)-slices.Min(f.All))/m, "spread")
			if f.Threads != nil {
				b.ReportMetric(Median(f.Threads), "threads-ns/packet")
			}
			if f.Program != nil {
				b.ReportMetric(Median(f.Program), "bpf-ns/packet")
			}
			if f.Lost > 0 {
				b.ReportMetric(float64(f.Lost), "lost-rounds")
			}
		})
	}
}

// Of is the share of another contender's throughput, the median of each round's.
func (f Figures) Of(other Figures) float64 {
	shares := make([]float64, len(f.All))
	for i := range shares {
		shares[i] = other.All[i] / f.All[i]
	}
	return Median(shares)
}

// Median is the one in the middle, or the upper one of two.
func Median(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }

// Absent says that a contender cannot take part, and why, in a line that benchstat
// ignores.
func Absent(name string, why error) { fmt.Printf("# %s does not take part: %v\n", name, why) }
