package forward

import (
	"slices"
	"sync/atomic"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/packet"
)

// crossings are the connections that go through Go (package conn, crossing.go) until it has none of their packets any
// more, where the plane counts those. The forwarding lock guards all but some.
type crossings struct {
	*tables
	counts []accel.Crossing // or nil
	// fresh have been inserted, and programs may not find them yet; busy are to become direct as
	// soon as nothing waits.
	fresh, busy []crossing
	some        atomic.Bool // are busy
	at          int         // which busy one is looked at next
	// serials are by connection: that of its crossing, or 0. All programs find those up to graced.
	serials []uint32
	serial  uint32
	graced  uint32
	// least is how many packets have waited at any tick of the last few, for each of counts.
	least []int32
	ticks uint32
	// unsure is how many packets may have been overtaken, or were lost.
	unsure uint64
	// lost is what the plane has lost so far of what is Go's, and losing for how many ticks it is taken to lose more:
	// then nothing waits for anything, as it would wait for what does not come, and that in Go's overload.
	lost   uint64
	losing int
}

// crossing is a connection that goes through Go.
type crossing struct {
	id     conn.ID
	serial uint32
}

const (
	// After crossingTicks what is counted as waiting, and never was less, is taken for lost.
	crossingTicks = 10
	// mostFresh are told apart: of more connections at once, packets may be overtaken.
	mostFresh = 1 << 16
	// crossingsAtOnce are looked at behind a batch.
	crossingsAtOnce = 16
)

// begin has connections go through Go at first, if the plane counts.
func (c *crossings) begin() {
	plane, counts := c.plane.(accel.Crosser)
	if !counts {
		return
	}
	if c.counts = plane.Crossings(); c.counts != nil {
		c.serials = make([]uint32, c.conns.Slots())
		c.least = make([]int32, len(c.counts))
		c.conns.SetCrossing(true)
	}
}

// of returns where the packets of a flow are counted.
func (c *crossings) of(f *packet.Flow) *accel.Crossing {
	return &c.counts[accel.CrossingOf((*[5]uint64)(f))]
}

// count has a frame be counted when the plane has ended with it, if a program has counted it: what that can
// read of a packet. All else is Go's whatever becomes of the connection.
func (c *crossings) count(f *dataplane.Frame, p *packet.Packet) {
	f.Left = nil
	if !f.Handed || c.counts == nil || p.Fragment || p.FragOffset > 0 || p.TTL <= 1 {
		return
	}
	if header := p.L4 - p.L3; p.Is6 && header != 40 || !p.Is6 && header != 20 {
		return
	}
	switch p.Kind {
	case packet.SCTP:
		if !p.HasChunk {
			return
		}
		fallthrough
	case packet.TCP, packet.UDP:
		f.Left = &c.of(&p.Flow).Left
	}
}

// add notes a connection that goes through Go, unless that is known.
func (c *crossings) add(id conn.ID, fresh bool) {
	if c.serials == nil || !fresh && c.serials[id] != 0 {
		return
	}
	if c.serial++; c.serial == 0 {
		c.serial++
	}
	c.serials[id] = c.serial
	x := crossing{id: id, serial: c.serial}
	if fresh {
		c.fresh = append(c.fresh, x)
		return
	}
	c.busy = append(c.busy, x)
	c.some.Store(true)
}

// inserted notes a connection that a packet has opened. Who opens one by SYN or INIT waits for the server's answer.
func (c *crossings) inserted(id conn.ID, p *packet.Packet) {
	switch {
	case !c.conns.Crossing(id):
	case opens(p) || len(c.fresh) >= mostFresh || c.loses():
		c.conns.ForceDirect(id)
	default:
		c.add(id, true)
	}
}

// handed notes a connection that goes through Go, of which a packet has come. Behind one that opens a connection none
// comes, as its client waits for the answer; but that may have been on the way, if it is not the first.
func (c *crossings) handed(id conn.ID, f *dataplane.Frame, opens bool) {
	own := int32(0)
	if f.Left != nil {
		own = 1
	}
	if !opens || !c.settled(id, own) {
		c.add(id, false)
	}
}

// parks has nobody wait for a packet that opens a connection and is parked: none comes behind it, and it would be
// taken for lost, as its connection is not among those that are looked at.
func (c *crossings) parks(f *dataplane.Frame, opens bool) {
	if opens && f.Verdict == dataplane.Transmit && f.Hop != nil && f.Hop.Neighbor().State != dataplane.HopReachable {
		f.Leave()
	}
}

// settled has a connection not go through Go any more, if so many of its packets wait, and reports whether it has.
func (c *crossings) settled(id conn.ID, waiting int32) bool {
	if c.counts == nil {
		return false
	}
	if c.loses() {
		c.conns.ForceDirect(id)
		return true
	}
	count := c.of(c.conns.Flow(id))
	if count.Waiting() != waiting || !c.conns.Settle(id) {
		return false
	}
	if count.Waiting() != waiting || !c.conns.Direct(id) {
		c.conns.Cross(id)
		return false
	}
	return true
}

// direct has a connection not go through Go any more, if none of its packets wait, and reports whether there
// is nothing left to do.
func (c *crossings) direct(x *crossing) bool {
	if c.serials[x.id] != x.serial {
		return true // another one has its place
	}
	if c.conns.Live(x.id) && c.conns.Crossing(x.id) {
		if !c.settled(x.id, 0) {
			return false
		}
	}
	c.serials[x.id] = 0
	return true
}

// Carried implements dataplane.Carrying: now is the moment in which of some connections nothing waits.
func (in *Path) Carried() {
	c := in.crossings
	if !c.some.Load() {
		return
	}
	in.lock()
	defer in.unlock()
	for range min(crossingsAtOnce, len(c.busy)) {
		if c.at >= len(c.busy) {
			c.at = 0
		}
		if !c.direct(&c.busy[c.at]) {
			c.at++
			continue
		}
		last := len(c.busy) - 1
		c.busy[c.at] = c.busy[last]
		c.busy = c.busy[:last]
	}
	c.some.Store(len(c.busy) > 0)
}

// lossesOf returns what the plane has lost so far, if it counts that. It may take a while, without the lock.
func (c *crossings) lossesOf() uint64 {
	if plane, counts := c.plane.(accel.Crosser); counts && c.counts != nil {
		return plane.Lost()
	}
	return 0
}

// loses reports whether the plane has lost packets of late.
func (c *crossings) loses() bool { return c.losing > 0 }

// settle is for a tick, with what lossesOf has returned: it has connections be direct that programs find by now, and waits no longer for
// what was lost.
func (c *crossings) settle(lost uint64) {
	c.losing = max(c.losing-1, 0)
	if lost != c.lost { // as a flood of what is Go's has it: for so long some of it may be counted as waiting
		c.lost, c.losing = lost, 2*crossingTicks
	}
	ready := 0
	for ready < len(c.fresh) && int32(c.graced-c.fresh[ready].serial) >= 0 {
		ready++
	}
	c.busy = append(c.busy, c.fresh[:ready]...)
	c.fresh = slices.Delete(c.fresh, 0, ready)
	left := c.busy[:0]
	for _, x := range c.busy {
		if !c.direct(&x) {
			left = append(left, x)
		}
	}
	c.busy = left
	c.correct()
	c.some.Store(len(left) > 0)
}

// correct counts as lost what has waited for too long, unless it is parked.
func (c *crossings) correct() {
	for _, list := range [][]crossing{c.fresh, c.busy} {
		for _, x := range list {
			if c.serials[x.id] == x.serial && c.conns.Live(x.id) &&
				c.index.dests[c.conns.Dest(x.id)].hop.Neighbor().State == dataplane.HopResolving {
				c.least[accel.CrossingOf((*[5]uint64)(c.conns.Flow(x.id)))] = 0
			}
		}
	}
	c.ticks++
	over := c.ticks%crossingTicks == 0
	for i := range c.counts {
		least := min(c.least[i], c.counts[i].Waiting())
		if c.least[i] = least; !over {
			continue
		}
		c.least[i] = 1 << 30
		if least != 0 {
			c.unsure += uint64(max(least, 0))
			c.counts[i].Left.Add(uint32(least))
		}
	}
}
