package xdp

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// TestMadeTwice has two CPUs open the same connections of persistent services, or two of the same
// client, at the same time: no template is left over, and none is named that does not control.
func TestMadeTwice(t *testing.T) {
	c := newContest(t, 81, 85)
	c.doubles = true
	doubles := 0
	for began := time.Now(); time.Since(began) < *statesFor && !t.Failed(); c.rounds++ {
		other := c.frames
		for i := range c.frames {
			c.frames[i] = c.syn(c.serial)
			other[i] = c.frames[i]
			if c.rounds%2 == 1 { // another port of the same client
				other[i] = append([]byte(nil), c.frames[i]...)
				other[i][34] ^= 0x40
			}
			c.serial += 4 // another client
			if i%2 == 1 {
				c.serial++ // and service
			}
		}
		var at [2]atomic.Int32
		part := func(frames *[statesBatch][]byte, mine, others *atomic.Int32) func() {
			return func() {
				defer mine.Store(statesBatch)
				for i, frame := range frames {
					mine.Store(int32(i + 1))
					for others.Load() <= int32(i) {
					}
					c.run(frame, packet.SYN)
					if i%3 == 0 {
						c.alone(frame, packet.ACK)
					}
				}
			}
		}
		c.together(part(&c.frames, &at[0], &at[1]), part(&other, &at[1], &at[0]))
		if c.rounds%4 == 3 {
			c.start() // what is pending is another director's
		}
		for _, frames := range [][statesBatch][]byte{c.frames, other} {
			for _, frame := range frames {
				c.run(frame, packet.ACK)
			}
		}
		c.fast.Tick(c.still.now)
		_, pending := c.inTemplates()
		if pending > 0 {
			t.Fatalf("round %d: %d templates are pending", c.rounds, pending)
		}
		// What a word names is a template of the same client.
		m, tm := c.still.conns.memory, c.still.templateArray.memory
		for at := shtab.HeaderSize; at+shtab.SlotSize <= len(m); at += shtab.SlotSize {
			word := binary.NativeEndian.Uint64(m[at:])
			if int64(word) >= 0 || binary.NativeEndian.Uint32(m[at+shtab.OffState:])&expiring.PendingFlag != 0 {
				continue
			}
			n := word & shtab.MaxValue >> conn.TemplateShift
			if n == 0 {
				doubles++
				continue
			}
			slot := tm[shtab.HeaderSize+int(n-1)*shtab.SlotSize:]
			if int64(binary.NativeEndian.Uint64(slot)) >= 0 || string(slot[8:12]) != string(m[at+8:at+12]) {
				t.Fatalf("round %d: a connection of % x names a template of % x", c.rounds, m[at+8:at+12], slot[8:12])
			}
		}
		templates := 0
		c.must(c.fast.Conns(func(s ulvs.ConnStatus) bool {
			if s.Template {
				templates++
			}
			return true
		}))
		if n := c.counter("templates"); int(n) != templates {
			t.Fatalf("round %d: %d templates are listed, counted are %d", c.rounds, templates, n)
		}
		if c.rounds%16 == 15 {
			c.end()
		}
	}
	c.end()
	t.Log(c.rounds, "rounds; connections without template:", doubles)
}
