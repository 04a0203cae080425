package wire

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Generator sends packets out of an interface. Make it with NewGenerator. Run is
// for one goroutine at a time, which is seen to; everything else but Close may be
// called meanwhile.
type Generator struct {
	t     Traffic
	end   End
	frame []byte
	prog  *ebpf.Program

	state  *words[uint64]
	pick   *words[uint32] // or nil
	counts *words[uint64] // by flow, or nil

	running sync.Mutex
}

// NewGenerator makes a generator that sends out of an interface. Errors wrap
// ErrNotPermitted if the process may not load programs.
func NewGenerator(out End, t Traffic) (*Generator, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	// Before 5.11 BPF memory counts as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, permitted(err)
	}
	g := &Generator{t: t, end: out, frame: t.frame()}
	if err := g.open(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Generator) open() (err error) {
	t := g.t
	if g.state, err = newWords[uint64]("wire_state", stateWords); err != nil {
		return err
	}
	if t.Random {
		g.state.w[stateWhich] = t.Seed
	}
	if t.Pick != nil {
		if g.pick, err = newWords[uint32]("wire_pick", len(t.Pick)); err != nil {
			return err
		}
		copy(g.pick.w, t.Pick)
	}
	if t.Count {
		if g.counts, err = newWords[uint64]("wire_sent", int(t.Flows)); err != nil {
			return err
		}
	}
	g.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "wire_generator", Type: ebpf.XDP, License: "GPL", Instructions: g.assemble()})
	if err != nil {
		return fmt.Errorf("the generator's program does not load: %w", permitted(err))
	}
	return nil
}

// perCall is how many packets are made in a system call, unless Traffic says
// otherwise. Each call waits for RCU at its end, 20 ms in which no processor time is used; a signal, of which Go's
// scheduler sends some, has it begin anew, and run through to no effect.
const perCall = 1 << 20

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES.
const liveFrames = 1 << 1

// ErrStopped says that Stop ended a run.
var ErrStopped = errors.New("the generator was stopped")

// Run sends n packets, and returns when all are out: on one CPU the sink has
// counted them by then, but for what another thread of the kernel has taken over
// (Sink.Await). took is the processor time that it all needed, the receivers' too
// if they were served inline. The error is ErrStopped if Stop was called.
func (g *Generator) Run(n uint64) (took time.Duration, err error) {
	g.running.Lock()
	defer g.running.Unlock()
	if n == 0 {
		return 0, nil
	}
	call := uint64(g.t.Call)
	if call == 0 {
		call = perCall
	}
	left := &g.state.w[stateLeft]
	atomic.StoreUint64(left, n)
	atomic.StoreUint64(&g.state.w[stateNext], uint64(monotonic())<<clockShift)
	err = g.end.do(func() error {
		back, err := pin(g.t.CPU)
		if err != nil {
			return err
		}
		defer back()
		start := threadTime()
		defer func() { took = threadTime() - start }()
		for {
			n := atomic.LoadUint64(left)
			if n == 0 {
				return nil
			}
			if atomic.LoadUint64(&g.state.w[stateStop]) != 0 {
				return ErrStopped
			}
			repeat := uint32(min(n, call))
			if g.t.Rate > 0 { // most of it is waiting
				repeat = uint32(call)
			}
			o := &ebpf.RunOptions{Data: g.frame, Repeat: repeat, Flags: liveFrames, BatchSize: g.t.Batch}
			if _, err := g.prog.Run(o); err != nil {
				return fmt.Errorf("cannot run the generator: %w (live frames need Linux 5.18)", permitted(err))
			}
			if n == atomic.LoadUint64(left) && g.t.Rate == 0 && atomic.LoadUint64(&g.state.w[stateStop]) == 0 {
				return errors.New("the generator's program has sent nothing: was the interface set down?")
			}
		}
	})
	return took, err
}

// Stop has Run send no more, now and later.
func (g *Generator) Stop() { atomic.StoreUint64(&g.state.w[stateStop], 1) }

// Sent is how many packets were sent so far.
func (g *Generator) Sent() uint64 { return atomic.LoadUint64(&g.state.w[stateSent]) }

// SentOf is how many packets of a flow were sent so far, with Traffic.Count.
func (g *Generator) SentOf(flow uint32) uint64 { return atomic.LoadUint64(&g.counts.w[flow]) }

// CPU is the one on which it sends.
func (g *Generator) CPU() int { return g.t.CPU }

// Close gives everything back. Nothing may be called after it.
func (g *Generator) Close() {
	if g.prog != nil {
		_ = g.prog.Close()
	}
	g.state.close()
	g.pick.close()
	g.counts.close()
}

// pin moves the calling goroutine's thread, to which it must be locked, to a CPU,
// and back.
func pin(cpu int) (back func(), err error) {
	var was, is unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		return nil, fmt.Errorf("cannot read which CPUs this thread may use: %w", err)
	}
	is.Set(cpu)
	if err := unix.SchedSetaffinity(0, &is); err != nil {
		return nil, fmt.Errorf("cannot move to CPU %d of %d: %w", cpu, runtime.NumCPU(), err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &was) }, nil
}

// monotonic is CLOCK_MONOTONIC.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}

// threadTime is the processor time that this thread has had.
func threadTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}
