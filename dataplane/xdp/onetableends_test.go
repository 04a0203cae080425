package xdp

import (
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/packet"
)

// ending is how many connections end at the same time.
const ending = tableMax / 2

// ends has connections end whose clients have not answered for a minute, while programs change them: one
// on the other CPU, and one that interrupts Go, as the kernel's packets do. Both begin when some have ended.
func (c *oneTable) ends() {
	frames := make([][]byte, ending)
	for i := range frames {
		frames[i] = c.syn(c.serial)
		c.serial++
		c.run(frames[i], packet.SYN)
	}
	c.fast.Tick(c.still.now)
	c.pass(59 * time.Second)
	begun := c.someEnded()
	var wake [2]int
	c.must(unix.Pipe(wake[:]))
	var ready, over atomic.Int32
	change := func(each int) {
		for i := 0; i < len(frames); i += each {
			c.alone(frames[i], packet.FIN|packet.ACK|packet.PSH)
		}
	}
	wait := func() {
		for ready.Add(1); ready.Load() < 3; {
			runtime.Gosched()
		}
	}
	c.together(
		func() {
			wait()
			c.fast.Tick(c.still.now + 2*time.Second)
			over.Store(1)
		},
		func() {
			wait()
			for over.Load() == 0 && !begun() {
			}
			_, err := unix.Write(wake[1], []byte{1})
			c.must(err)
			change(2)
		},
		func() { // on the CPU of the first
			defer first()()
			ready.Add(1)
			_, err := unix.Read(wake[0], make([]byte, 1))
			c.must(err)
			change(1)
		},
	)
	c.must(errors.Join(unix.Close(wake[0]), unix.Close(wake[1])))
	c.pass(2 * time.Second)
	c.frames = [statesBatch][]byte{}
	c.audit(nil)
}

// someEnded is to be asked whether one of a few connections that there are now has ended.
func (c *oneTable) someEnded() func() bool {
	var some []int
	p := newPlaces(c.still.conns.memory)
	for i := range p.slots {
		if int64(p.word(i)) < 0 && c.rng.IntN(16) == 0 {
			some = append(some, i)
		}
	}
	return func() bool {
		return slices.ContainsFunc(some, func(i int) bool { return int64(p.word(i)) >= 0 })
	}
}

// first has the calling thread run before all others of its CPU as soon as it is woken, where that is permitted,
// until it calls back.
func first() (back func()) {
	was, err := unix.SchedGetAttr(0, 0)
	if err == nil {
		const fifo = 1 // SCHED_FIFO
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: fifo, Priority: 1}, 0)
	}
	if err != nil {
		return func() {}
	}
	return func() { _ = unix.SchedSetAttr(0, was, 0) }
}

// listed has the program establish connections while they are listed: the templates of those that were when
// the listing comes to templates are ASSURED there.
func (c *oneTable) listed() {
	c.fresh()
	for _, frame := range c.frames {
		c.run(frame, packet.SYN)
	}
	number := map[netip.AddrPort]int{} // the last frame of a client and service
	for i, frame := range c.frames {
		number[netip.AddrPortFrom(clientOf(frame).Addr(), virtualPort(frame))] = i
	}
	var at atomic.Int32
	var over atomic.Bool
	c.together(
		func() {
			defer over.Store(true)
			for i, frame := range c.frames {
				c.run(frame, packet.ACK)
				at.Store(int32(i + 1))
				for range c.rng.IntN(2000) {
				}
			}
		},
		func() {
			for last := false; !last; {
				last = over.Load()
				upTo, begun := at.Load(), false
				c.must(c.fast.Conns(func(s ulvs.ConnStatus) bool {
					if !s.Template {
						for until := upTo + 2; !begun && at.Load() < until && !over.Load(); {
						}
						upTo, begun = at.Load(), true
						return true
					}
					i, ok := number[netip.AddrPortFrom(s.Client.Addr(), s.Virtual.Port())]
					if ok && i < int(upTo) && s.State != "ASSURED" {
						c.t.Errorf("round %d: the template of %v is listed as %s after its connection's ACK", c.rounds, s.Client, s.State)
					}
					return true
				}))
			}
		},
	)
	c.audit(func(int) string { return "ESTABLISHED" })
}

func virtualPort(frame []byte) uint16 { return uint16(frame[36])<<8 | uint16(frame[37]) }
