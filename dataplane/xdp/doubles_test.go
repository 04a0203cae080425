package xdp

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// TestDoubles has two CPUs open the same connections, and change them, at the same time: one of
// each is kept, and nothing that is counted. (In what state that is depends on which of the two
// a packet has found.)
func TestDoubles(t *testing.T) {
	c := newContest(t, 80, 83, 84)
	c.doubles = true
	for began := time.Now(); time.Since(began) < *statesFor && !t.Failed(); c.rounds++ {
		c.double()
		if c.rounds%32 == 31 {
			c.end()
		}
	}
	c.end()
}

// double has two CPUs open the same connections.
func (c *contest) double() {
	for i := range c.frames {
		c.frames[i] = c.syn(c.serial)
		c.serial++
	}
	var at [2]atomic.Int32
	part := func(mine, others *atomic.Int32) func() {
		return func() {
			defer mine.Store(statesBatch)
			for i, frame := range c.frames {
				mine.Store(int32(i + 1))
				for others.Load() <= int32(i) {
				}
				c.run(frame, packet.SYN) // which is Go's where both want the same slot
				if i%2 == 0 {
					c.alone(frame, packet.ACK)
					c.alone(frame, packet.FIN|packet.ACK)
				}
			}
		}
	}
	c.together(part(&at[0], &at[1]), part(&at[1], &at[0]))
	for _, frame := range c.frames {
		c.run(frame, packet.ACK)
		c.run(frame, packet.RST)
	}
	c.audit(func(int) string { return "CLOSE" })
}

// TestDoublesLate has a program be interrupted before it publishes what it opens, and one on another CPU open
// the same connection, or another of the same client, which Go accepts meanwhile: of each, one is there in the end.
func TestDoublesLate(t *testing.T) {
	for _, tt := range []struct {
		name string
		port uint16 // the service's
		more uint16 // by how much the second one's source port is greater
	}{{"connection", 80, 0}, {"template", 81, 1}, {"both", 81, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			c := newContest(t, tt.port)
			frames := [2][]byte{c.syn(0), c.syn(0)}
			binary.BigEndian.PutUint16(frames[1][34:], binary.BigEndian.Uint16(frames[1][34:])+tt.more)
			opened := func(i int) func() {
				return func() {
					if c.alone(frames[i], packet.SYN) != program.ActionTX {
						t.Errorf("the program did not open connection %d", i)
					}
				}
			}
			c.together(opened(0), func() {})
			told := c.hideTold()
			conns, templates := unpublish(c.still.conns.memory), unpublish(c.still.templateArray.memory)
			c.together(func() {}, opened(1))
			c.fast.Tick(c.still.now)
			templates()
			conns()
			told()
			c.fast.Tick(c.still.now)
			if n := c.counter("connections"); n != 1+uint64(tt.more) {
				t.Errorf("there are %d connections", n)
			}
			c.fast.Tick(c.still.now)
			c.places()
			c.audit(nil)
			c.run(frames[0], packet.ACK)
			c.run(frames[1], packet.ACK)
			c.audit(nil)
			c.end()
		})
	}
}

// unpublish has the slots that are used be claimed only, until they are published again.
func unpublish(memory []byte) (publish func()) {
	p := newPlaces(memory)
	was := map[int][]byte{}
	for i, s := range p.slots {
		if p.word(i) != 0 {
			was[i] = slices.Clone(s[:shtab.OffNext])
			clear(s[shtab.OffKey:shtab.OffNext])
			binary.NativeEndian.PutUint64(s[shtab.OffWord:], shtab.MaxValue)
		}
	}
	return func() {
		for i, s := range was {
			copy(p.slots[i], s)
		}
	}
}
