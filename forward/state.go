package forward

import (
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
)

// What outlives the process, where the plane has memory that does: both tables
// with their records, the states, and a journal of commands.
const (
	partConns = iota
	partConnRecords
	partTemplates
	partTemplateRecords
	partCells
	partJournal
	partServices
)

// cellCount is how many real servers, and how many services, have states that
// outlive the process. What others count begins at 0 with the next one.
const stateCount = 1 << 14

func parts(o *Options) []accel.Part {
	return []accel.Part{
		partConns:           {Name: accel.PartConns, Size: conn.MemorySize(o.Connections)},
		partConnRecords:     {Name: "conn-records", Size: conn.RecordsSize(o.Connections)},
		partTemplates:       {Name: accel.PartTemplates, Size: persist.MemorySize(o.Templates)},
		partTemplateRecords: {Name: "template-records", Size: persist.RecordsSize(o.Templates)},
		partCells:           {Name: "cells", Size: shtab.RecordsSize[state](2 * stateCount)},
		partJournal:         {Name: "journal", Size: o.Journal},
		partServices:        {Name: accel.PartServices, Size: preselect.Size()},
	}
}

// shareMemory has the tables lie in the memory of a plane that forwards by itself, and
// says whether an earlier process left its own there.
func (d *Path) shareMemory(fast accel.Accelerator, o *Options, conns *conn.Options, templates *persist.Options) (journal []byte, adopt bool, err error) {
	list := parts(o)
	if adopt, err = fast.Memory(list); err != nil {
		return nil, false, err
	}
	conns.Quarantine, templates.Quarantine = true, true
	conns.Memory, conns.Records, conns.Adopt = list[partConns].Block, list[partConnRecords].Block, adopt
	templates.Memory, templates.Records, templates.Adopt = list[partTemplates].Block, list[partTemplateRecords].Block, adopt
	if d.kept, err = shtab.RecordsOver[state](list[partCells].Block, 2*stateCount); err != nil {
		return nil, false, err
	}
	if opens, ok := fast.(accel.Opener); ok {
		err = d.opener.adopt(opens, list[partServices].Block)
	}
	return list[partJournal].Block, adopt, err
}

// Attach puts the path to work after the commands of an earlier process, if it adopted
// one's tables, were made again: from now on what is done is kept, and the plane is told.
func (d *Path) Attach(adopted bool) {
	d.lock()
	defer d.unlock()
	d.table.mirror = d.starting
	now := tickOf(d.clock())
	if len(d.kept) > 0 {
		d.table.states.kept = d.kept
		d.nextEst, d.table.trashAt = d.table.states.clocks()
		if left := int32(*d.nextEst - now); !adopted || left < 0 || left > int32(estimatorPeriod) {
			*d.nextEst = now + estimatorPeriod
		}
	}
	if adopted {
		d.adopt(now)
	}
}

// adopt goes on with what an earlier process left in the tables.
func (d *Path) adopt(now uint32) {
	d.bind()
	for _, dst := range d.table.dests {
		if dst != nil {
			dst.state = d.table.states.server(dst.ID)
			dst.Recall(dst.overloaded)
			dst.Keep(&dst.overloaded)
			dst.pushed = nil
		}
	}
	// What the plane knows of a server holds until it is known anew.
	const grace = 10 * hz
	d.table.free = nil
	for id, dst := range d.table.dests[1:] {
		if dst == nil {
			d.table.free = append(d.table.free, uint32(id+1))
			d.table.mirror.vacant(uint32(id + 1))
		} else if dst.available {
			dst.graceUntil = max(now+grace, 1)
		}
	}
	for s := range d.table.Each {
		_, s.state = d.table.states.service(s.number)
		s.restorePosition()
	}
}

// Holds reports whether a real server has the number.
func (d *Path) Holds(number uint32) bool {
	d.lock()
	defer d.unlock()
	return d.table.dests[number] != nil
}

// Snapshot is what commands have made of a path.
type Snapshot struct {
	Sysctls    map[string]int
	Timeouts   ulvs.Timeouts
	Generation uint32
	// Services are in the kernel's order, and Trash are the real servers in the trash,
	// by their services, of which some may be gone.
	Services []*Service
	Trash    map[*Service][]*Dest
}

// Snapshot is of this moment.
func (d *Path) Snapshot() Snapshot {
	d.lock()
	defer d.unlock()
	s := Snapshot{Sysctls: map[string]int{}, Timeouts: d.timeouts(), Generation: d.conns.Generation(), Trash: map[*Service][]*Dest{}}
	for _, name := range d.sysctl.Names() {
		s.Sysctls[name], _ = d.sysctl.Get(name)
	}
	for _, dst := range d.table.trash {
		s.Trash[dst.svc] = append(s.Trash[dst.svc], dst)
	}
	s.Services = slices.Collect(d.table.All())
	return s
}

// bind counts the connections and templates of the tables for their real servers,
// and ends those that have none.
func (d *Path) bind() {
	known := func(id uint32) *Dest {
		if int(id) < len(d.table.dests) {
			return d.table.dests[id]
		}
		return nil
	}
	for at, more := persist.ID(0), true; more; {
		at, more = d.templates.Each(at, 1<<30, func(id persist.ID) {
			dst := known(d.templates.Dest(id))
			if dst == nil {
				d.templates.Remove(id)
				return
			}
			dst.Bind(true, false)
		})
	}
	for at, more := conn.ID(0), true; more; {
		at, more = d.conns.Each(at, 1<<30, func(id conn.ID) {
			dst := known(d.conns.Dest(id))
			if dst == nil {
				d.conns.Remove(id)
				return
			}
			dst.Bind(false, d.conns.Active(id))
			if t := d.conns.Template(id); t != 0 {
				if int(t) > d.templates.Slots() || !d.templates.Live(persist.ID(t-1)) {
					d.conns.Orphan(id)
					return
				}
				d.templates.Adopt(persist.ID(t - 1))
			}
		})
	}
	d.opener.acceptAll(known)
}

// Purge takes a real server out of the trash, as the process before did.
func (d *Path) Purge(number uint32) {
	for i, dst := range d.table.trash {
		if dst.ID == number {
			d.table.trash = slices.Delete(d.table.trash, i, i+1)
			d.table.dests[number] = nil
			d.resolver.Release(dst.hop)
			return
		}
	}
}

// number gives an adopted real server the number that it had. It returns the one
// that had it before, and had left the trash since.
func (t *table) number(d *Dest, id uint32) (was *Dest) {
	for int(id) >= len(t.dests) {
		t.dests = append(t.dests, nil)
	}
	if was = t.dests[id]; was != nil {
		t.trash = slices.DeleteFunc(t.trash, func(x *Dest) bool { return x == was })
	}
	d.ID = id
	t.dests[id] = d
	d.state = t.states.server(id)
	return was
}

// states gives out the states, by a real server's number and by a service's own.
type states struct {
	kept     []state
	services map[uint32]bool // numbers in use
}

func (c *states) server(id uint32) *state {
	if int(id) < min(stateCount, len(c.kept)) {
		return &c.kept[id]
	}
	return new(state)
}

// service is the state of service number n; 0 takes a free number.
func (c *states) service(n uint32) (uint32, *state) {
	if c.services == nil {
		c.services = map[uint32]bool{}
	}
	fresh := n == 0
	for n == 0 || fresh && c.services[n] {
		n++
	}
	c.services[n] = true
	at := new(state)
	if int(n) < stateCount && len(c.kept) > 0 {
		at = &c.kept[stateCount+n]
	}
	if fresh {
		*at = state{}
	}
	return n, at
}

// clocks are where the ticks of the estimator's next round and of the next look at
// the trash are kept: in the state of service 0, which there is not.
func (c *states) clocks() (round, trash *uint32) {
	return &c.kept[stateCount].last, &c.kept[stateCount].idle
}

func (c *states) freeService(n uint32) { delete(c.services, n) }
