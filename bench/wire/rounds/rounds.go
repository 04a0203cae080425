// Package rounds compares what carries frames over the wire of package wire:
// contenders take turns, so that what else happens on the machine meets all of
// them, and a round counts only if the sink has seen all that was sent. It is not
// covered by compatibility.
package rounds

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/ulvs/ulvs/bench/wire"
	"golang.org/x/sys/unix"
)

// Contender is one that takes part. Name, Generators, Sinks and Packets are required.
type Contender struct {
	Name string
	// Generators make the packets, all at once if there are several: each on a CPU of
	// its own.
	Generators []*wire.Generator
	// Sinks count what arrives, in Room.
	Sinks []*wire.Sink
	Room  int
	// Packets is how many each generator sends in a round.
	Packets uint64
	// Burst, if not 0, is how many are sent before all of those have arrived: for
	// contenders that have threads of their own, which lose what their rings have no
	// room for.
	Burst uint64
	// Threads: this process carries the packets, or a part of them, in other threads
	// than the generator's; their processor time counts, less what the process needs
	// when there is nothing to carry.
	Threads bool
	// Turn, if not nil, is called before each round.
	Turn func() error
	// Program, if not nil, is the BPF program that decides; the kernel measures its
	// own time for a packet, in rounds of their own.
	Program *ebpf.Program
}

// Figures are what a contender took, each round's, in ns of processor time a packet.
type Figures struct {
	Name string
	// All is everything: making the frames, the wire, the contender, the sink.
	All []float64
	// Threads is the part of All outside of the generators' threads, with
	// Contender.Threads.
	Threads []float64
	// Program is the BPF program's, by the kernel's statistics, which add what reading
	// the clock twice costs.
	Program []float64
	// Lost is how many rounds did not count because frames were missing.
	Lost int
}

// tries is how often a round may lose frames before that is an error.
const tries = 5

// patience is how long frames may be on their way.
const patience = 2 * time.Second

// Run has the contenders take turns for a number of rounds, after one to warm up
// that does not count. An error says which contender fails, and how.
func Run(rounds int, list []Contender) ([]Figures, error) {
	all := make([]Figures, len(list))
	for round := range rounds + 1 {
		for i := range list {
			f := &all[i]
			f.Name = list[i].Name
			t, err := list[i].round(f)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			}
			if round == 0 {
				continue
			}
			n := float64(list[i].Packets) * float64(len(list[i].Generators))
			f.All = append(f.All, float64(t.threads+t.generators)/n)
			if list[i].Threads {
				f.Threads = append(f.Threads, float64(t.threads)/n)
			}
		}
	}
	return all, statistics(list, all)
}

// statistics has the kernel measure programs, in a few rounds more.
func statistics(list []Contender, all []Figures) error {
	if !slices.ContainsFunc(list, func(c Contender) bool { return c.Program != nil }) {
		return nil
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("statistics of BPF programs (Linux 5.8): %w", err)
	}
	defer stats.Close()
	for range 3 {
		for i := range list {
			p := list[i].Program
			if p == nil {
				continue
			}
			before, err := p.Stats()
			if err != nil {
				return fmt.Errorf("%s: %w", list[i].Name, err)
			}
			if _, err := list[i].round(&all[i]); err != nil {
				return fmt.Errorf("%s: %w", list[i].Name, err)
			}
			after, err := p.Stats()
			if err != nil {
				return fmt.Errorf("%s: %w", list[i].Name, err)
			}
			if n := after.RunCount - before.RunCount; n > 0 {
				all[i].Program = append(all[i].Program, float64(after.Runtime-before.Runtime)/float64(n))
			}
		}
	}
	return nil
}

// times are what a round took: in the generators' threads, and outside.
type times struct{ generators, threads time.Duration }

// round is one that lost nothing.
func (c *Contender) round(f *Figures) (t times, err error) {
	for range tries {
		if c.Turn != nil {
			if err := c.Turn(); err != nil {
				return t, err
			}
		}
		t, err = c.once()
		if !errors.Is(err, errLost) {
			return t, err
		}
		f.Lost++
		time.Sleep(100 * time.Millisecond) // for stragglers
	}
	return t, fmt.Errorf("in %d rounds: %w", tries, err)
}

func (c *Contender) once() (t times, err error) {
	var idle float64
	if c.Threads {
		idle = idleShare()
	}
	start := time.Now()
	began, soft := processTime(), softTime(c.Generators)
	burst := c.Packets
	if c.Burst > 0 {
		burst = c.Burst
	}
	wait := patience
	// Even after a loss all are sent, so that the next round begins with the flow with
	// which it should.
	for left := c.Packets; left > 0; left -= min(left, burst) {
		before := c.arrived()
		took, failed := c.send(min(left, burst))
		if failed != nil {
			return t, failed
		}
		t.generators += took
		if lost := c.await(before+min(left, burst)*uint64(len(c.Generators)), wait); lost != nil {
			err, wait = lost, patience/100
		}
	}
	if c.Threads {
		t.threads = processTime() - began - t.generators - time.Duration(idle*float64(time.Since(start)))
	}
	t.generators += softTime(c.Generators) - soft
	return t, err
}

// send sends n packets by each generator.
func (c *Contender) send(n uint64) (took time.Duration, err error) {
	results := make([]struct {
		took time.Duration
		err  error
	}, len(c.Generators))
	var others sync.WaitGroup
	for i, g := range c.Generators[1:] {
		others.Go(func() { results[i+1].took, results[i+1].err = g.Run(n) })
	}
	results[0].took, results[0].err = c.Generators[0].Run(n)
	others.Wait()
	for _, r := range results {
		took, err = took+r.took, errors.Join(err, r.err)
	}
	return took, err
}

var errLost = errors.New("frames were lost")

// await waits until so many have arrived in all.
func (c *Contender) await(total uint64, within time.Duration) error {
	for end := time.Now().Add(within); ; time.Sleep(200 * time.Microsecond) {
		got := c.arrived()
		if got == total {
			return nil
		}
		if got > total || time.Now().After(end) {
			return fmt.Errorf("%w: the sink has seen %d, and not %d", errLost, got, total)
		}
	}
}

func (c *Contender) arrived() (n uint64) {
	for _, s := range c.Sinks {
		n += s.Count(c.Room)
	}
	return n
}

// idleShare is the share of a CPU that this process needs while nothing is sent:
// its directors look at their clocks. Most of a round is waiting (package wire), in
// which that would count as the packets'.
func idleShare() float64 {
	start, began := time.Now(), processTime()
	time.Sleep(200 * time.Millisecond)
	return float64(processTime()-began) / float64(time.Since(start))
}

// processTime is the processor time that all threads of this process have had.
func processTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}
