package forward

import (
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/estimator"
	"github.com/ulvs/ulvs/internal/preselect"
)

// mirror is what a plane that forwards by itself is told of real servers and of time,
// and what it gives back. There always is one: for other planes, and while the journal
// of an earlier process is replayed, the one that does nothing.
type mirror interface {
	// pushServer tells where a real server is now, and syncServers what has changed.
	pushServer(*Dest)
	syncServers(dests []*Dest, now uint32)
	// vacant says that nobody has a real server's number.
	vacant(id uint32)
	// numbered is for a real server that has been given a number which another had.
	numbered(*Dest)
	// collectCounters counts what the plane has forwarded by itself to a real server.
	collectCounters(*Dest)
	// uncollected is how many packets that were a connection each the plane has forwarded to it
	// since.
	uncollected(*Dest) uint64
	// savePosition writes down where a service's scheduler stands.
	savePosition(*Service)
	setGeneration(gen uint32)
	heartbeat(tick uint32)
	setContents(services, connections int)
	start(accel.Acceleration) error
	grace() error
	release()
}

// noMirror is that of a plane that does not forward by itself.
type noMirror struct{}

var _ mirror = noMirror{}

func (noMirror) pushServer(d *Dest)             { d.pushed = d.hop.Neighbor() }
func (noMirror) syncServers([]*Dest, uint32)    {}
func (noMirror) vacant(uint32)                  {}
func (noMirror) numbered(*Dest)                 {}
func (noMirror) collectCounters(*Dest)          {}
func (noMirror) uncollected(*Dest) uint64       { return 0 }
func (noMirror) savePosition(*Service)          {}
func (noMirror) setGeneration(uint32)           {}
func (noMirror) heartbeat(uint32)               {}
func (noMirror) setContents(int, int)           {}
func (noMirror) start(accel.Acceleration) error { return nil }
func (noMirror) grace() error                   { return nil }
func (noMirror) release()                       {}

// planeMirror is that of a plane that does.
type planeMirror struct{ fast accel.Accelerator }

var _ mirror = planeMirror{}

func (m planeMirror) pushServer(d *Dest) {
	var s accel.Server
	n := d.hop.Neighbor()
	if d.available && d.graceUntil != 0 && n.State != dataplane.HopReachable && n.State != dataplane.HopLocal {
		return // it may not be known yet, and was before
	}
	d.pushed, d.graceUntil = n, 0
	if d.available && n.State == dataplane.HopReachable {
		s = accel.Server{Reachable: true, Dst: n.Dst, Src: n.Src, Ifindex: n.Ifindex, MTU: n.MTU}
		if s.MTU == 0 {
			s.MTU = 65535
		}
	}
	m.fast.SetServer(d.ID, s)
}

func (m planeMirror) syncServers(dests []*Dest, now uint32) {
	for _, d := range dests {
		if d != nil && d.graceUntil != 0 && int32(now-d.graceUntil) >= 0 {
			d.graceUntil = 0
		}
		if d != nil && d.available && d.hop.Neighbor() != d.pushed {
			m.pushServer(d)
		}
	}
}

func (m planeMirror) vacant(id uint32) { m.fast.SetServer(id, accel.Server{}) }

func (m planeMirror) numbered(d *Dest) { d.served = m.fast.Served(d.ID) }

func (m planeMirror) collectCounters(d *Dest) {
	now, was := m.fast.Served(d.ID), d.served
	d.served = now
	if d.available {
		n := estimator.Counter{Conns: now.Conns - was.Conns, Packets: now.Packets - was.Packets, Bytes: now.Bytes - was.Bytes}
		d.Counter.Add(n)
		d.svc.Counter.Add(n)
		d.svc.byPlane += n.Conns
	}
}

func (m planeMirror) uncollected(d *Dest) uint64 {
	if !d.available {
		return 0
	}
	return m.fast.Served(d.ID).Conns - d.served.Conns
}

func (m planeMirror) savePosition(s *Service) {
	if s.positioned == nil {
		return
	}
	last, current := s.positioned.Position()
	s.last, s.current = 0, current
	if last != nil {
		s.last = last.ID
	}
	if s.usesPicks {
		s.picks.SetLast(preselect.Pick{Dest: s.last, Current: s.current})
	}
}

func (m planeMirror) setGeneration(gen uint32)         { m.fast.SetGeneration(gen) }
func (m planeMirror) heartbeat(tick uint32)            { m.fast.Heartbeat(tick) }
func (m planeMirror) setContents(services, conns int)  { m.fast.SetContents(services, conns) }
func (m planeMirror) start(a accel.Acceleration) error { return m.fast.Accelerate(a) }
func (m planeMirror) grace() error                     { return m.fast.Grace() }
func (m planeMirror) release()                         { m.fast.Release() }
