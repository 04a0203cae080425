package forward

import (
	"errors"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/estimator"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// State is what of a path outlives the process, and how the next one goes on with it.
type State struct{ *tables }

// What outlives the process, where the plane has memory that does: both tables
// with their records, the states, and a journal of commands.
const (
	partConns = iota
	partConnRecords
	partTemplates
	partTemplateRecords
	partStates
	partJournal
	partServices
	partCounts
	partSequences
)

// How many real servers, and how many services, have states that outlive the process: those to
// which, and of which, a plane may open connections. What others count begins at 0 with the next one.
const (
	serverStates  = accel.Counted
	serviceStates = preselect.Services
)

// Planes count as schedulers do.
var (
	_ = [1]struct{}{}[sched.ActiveConn-accel.ActiveConn]
	_ = [1]struct{}{}[sched.InactiveConn-accel.InactiveConn]
)

// Sizes are the sizes of the parts of memory that outlive the process, by name.
func (o *Options) Sizes() map[string]int {
	sizes := map[string]int{}
	for _, p := range parts(o) {
		sizes[p.Name] = p.Size
	}
	return sizes
}

func parts(o *Options) []accel.Part {
	return []accel.Part{
		partConns:           {Name: accel.PartConns, Size: conn.MemorySize(o.Connections)},
		partConnRecords:     {Name: "conn-records", Size: conn.RecordsSize(o.Connections)},
		partTemplates:       {Name: accel.PartTemplates, Size: persist.MemorySize(o.Templates)},
		partTemplateRecords: {Name: "template-records", Size: persist.RecordsSize(o.Templates)},
		partStates:          {Name: "cells", Size: shtab.RecordsSize[kept](1)},
		partJournal:         {Name: accel.PartJournal, Size: o.Journal, Journal: true},
		partServices:        {Name: accel.PartServices, Size: preselect.RecordsSize()},
		partCounts:          {Name: accel.PartCounts, Size: shtab.RecordsSize[uint64](2 * accel.Counted)},
		partSequences:       {Name: accel.PartSequences, Size: preselect.SequencesSize()},
	}
}

// shareMemory has the tables lie in the memory of a plane that forwards by itself, and
// says whether an earlier process left its own there.
func (tb *tables) shareMemory(fast accel.Accelerator, o *Options, conns *conn.Options,
	templates *persist.Options) (journal []byte, adopt bool, err error) {
	list := parts(o)
	if adopt, err = fast.Memory(list); err != nil {
		return nil, false, err
	}
	conns.Quarantine, templates.Quarantine = true, true
	conns.Memory, conns.Records, conns.Adopt = list[partConns].Block, list[partConnRecords].Block, adopt
	templates.Memory, templates.Records, templates.Adopt = list[partTemplates].Block,
		list[partTemplateRecords].Block, adopt
	all, err := shtab.RecordsOver[kept](list[partStates].Block, 1)
	if err != nil {
		return nil, false, err
	}
	tb.kept = &all[0]
	if tb.counts, err = shtab.RecordsOver[uint64](list[partCounts].Block, 2*accel.Counted); err != nil {
		return nil, false, err
	}
	if opens, ok := fast.(accel.Opener); ok {
		err = tb.opener.adopt(opens, list[partServices].Block, list[partSequences].Block)
	}
	return list[partJournal].Block, adopt, err
}

// ReplaceJournal gives the journal other memory, which fill writes: another process finds
// the old or the new one, whenever this one is killed. The error leaves the old one.
func (st *State) ReplaceJournal(size int, fill func(block []byte) error) error {
	fast, ok := st.plane.(accel.Accelerator)
	if !ok {
		return errors.ErrUnsupported // no other plane keeps one
	}
	return fast.Replace(accel.PartJournal, size, fill)
}

// Attach puts the path to work after the journal of an earlier process, if it adopted
// one's tables, was replayed: from now on the states outlive the process, and the plane
// hears of changes.
func (st *State) Attach(adopted bool) {
	st.lock()
	defer st.unlock()
	st.index.mirror = st.starting
	now := tickOf(st.clock())
	if st.kept != nil {
		st.index.states.kept, st.index.states.shared = st.kept, st.counts
		st.nextEst, st.index.trashAt, st.index.total = &st.kept.estimatorAt, &st.kept.trashAt, &st.kept.total
		if left := int32(*st.nextEst - now); !adopted || left < 0 || left > int32(estimatorPeriod) {
			*st.nextEst = now + estimatorPeriod
		}
	}
	if adopted {
		st.adopt(now)
	}
}

// adopt goes on with what an earlier process left in the tables.
func (st *State) adopt(now uint32) {
	// The kept states come first: bind counts connections that nobody has counted yet.
	for _, dst := range st.index.dests {
		if dst != nil {
			dst.state = st.index.states.server(dst.ID)
			dst.Share(st.index.states.counts(dst.ID))
		}
	}
	for s := range st.index.Each {
		_, s.state = st.index.states.service(s.number)
	}
	st.bind()
	for _, dst := range st.index.dests {
		if dst != nil {
			dst.Recall(dst.overloaded)
			dst.Keep(&dst.overloaded)
			dst.pushed = nil
		}
	}
	st.opener.acceptAll(st.known) // which may overload some
	// What the plane knows of a server holds until it is known anew.
	const grace = 10 * hz
	st.index.free = nil
	for id, dst := range st.index.dests[1:] {
		if dst == nil {
			st.index.free = append(st.index.free, uint32(id+1))
			st.index.mirror.vacant(uint32(id + 1))
		} else if !dst.gone() {
			dst.graceUntil = max(now+grace, 1)
		}
	}
	for s := range st.index.Each {
		s.restorePosition()
	}
}

// SetLoaded says whether the path has all that commands were to give it, after each of
// them. What a process leaves that was not loaded to the end is worth nothing to another.
func (st *State) SetLoaded(loaded bool) {
	st.lock()
	defer st.unlock()
	st.loaded = loaded
	st.setContents()
}

// setContents tells the plane how much there is that the next process may want.
func (tb *tables) setContents() {
	if tb.loaded {
		tb.index.mirror.setContents(tb.index.Len(), tb.conns.Len())
	} else {
		tb.index.mirror.setContents(0, 0)
	}
}

// Holds reports whether a real server has the number.
func (st *State) Holds(number uint32) bool {
	st.lock()
	defer st.unlock()
	return st.index.dests[number] != nil
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

// Snapshot reads what commands have made of the path, at one moment.
func (st *State) Snapshot() Snapshot {
	st.lock()
	defer st.unlock()
	s := Snapshot{Sysctls: map[string]int{}, Timeouts: st.timeouts(), Generation: st.conns.Generation(),
		Trash: map[*Service][]*Dest{}}
	for _, name := range st.sysctl.Names() {
		s.Sysctls[name], _ = st.sysctl.Get(name)
	}
	for _, dst := range st.index.trash.all() {
		s.Trash[dst.svc] = append(s.Trash[dst.svc], dst)
	}
	s.Services = slices.Collect(st.index.All())
	return s
}

// known returns the real server of a number, or nil.
func (st *State) known(id uint32) *Dest {
	if int(id) < len(st.index.dests) {
		return st.index.dests[id]
	}
	return nil
}

// bind counts the connections and templates of the tables for their real servers,
// and ends those that have none.
func (st *State) bind() {
	for at, more := persist.ID(0), true; more; {
		at, more = st.templates.Each(at, 1<<30, func(id persist.ID) {
			dst := st.known(st.templates.Dest(id))
			if dst == nil {
				st.templates.Remove(id)
				return
			}
			dst.Bind(true, false)
		})
	}
	for at, more := conn.ID(0), true; more; {
		at, more = st.conns.Each(at, 1<<30, func(id conn.ID) {
			dst := st.known(st.conns.Dest(id))
			if dst == nil {
				st.conns.End(id)
				return
			}
			dst.Bind(false, st.conns.Active(id))
			if t := st.conns.Template(id); t != st.conns.Named(id) {
				st.conns.Rename(id, t)
			}
			if t := st.conns.Template(id); t != 0 {
				if int(t) > st.templates.Slots() || !st.templates.Live(persist.ID(t-1)) {
					st.conns.Orphan(id)
				} else {
					st.templates.Adopt(persist.ID(t - 1))
				}
			}
			st.opener.acceptState(id)
		})
	}
}

// Purge takes a real server out of the trash, as the process before did.
func (st *State) Purge(number uint32) {
	if int(number) >= len(st.index.dests) {
		return
	}
	if dst := st.index.dests[number]; dst != nil && !dst.available {
		st.index.trash.remove(dst)
		st.index.dests[number] = nil
		st.resolver.Release(dst.hop)
	}
}

// number gives an adopted real server the number that it had. It returns the one
// that had it before, and had left the trash since.
func (ix *index) number(d *Dest, id uint32) (was *Dest) {
	for int(id) >= len(ix.dests) {
		ix.dests = append(ix.dests, nil)
	}
	if was = ix.dests[id]; was != nil {
		if !was.available {
			ix.trash.remove(was)
		}
	}
	d.ID = id
	ix.dests[id] = d
	d.state = ix.states.server(id)
	return was
}

// state is what of a service or a real server may outlive the process, besides its
// configuration. It holds no pointers.
type state struct {
	estimator.Estimator
	// served is what the plane had forwarded by itself when it was last counted.
	served accel.Served
	// last is the number of the real server that the scheduler chose last, and
	// current what else it knows (sched.Positioned).
	last       uint32
	current    int32
	overloaded uint32 // of a real server: sched.Dest.Keep
	idle       uint32 // tick since which the trash has seen it without any
}

// kept is what outlives the process beside the tables and the journal. accel.Layout goes
// with it.
type kept struct {
	estimatorAt uint32 // tick of the estimator's next round
	trashAt     uint32 // tick at which the trash is looked at next
	total       total
	servers     [serverStates]state
	services    [serviceStates]state
}

// total is what all services have counted, those that are gone too (struct netns_ipvs, tot_stats).
type total struct {
	estimator.Estimator
	ended estimator.Counter // of services that are gone
}

// states gives out the states, by a real server's number and by a service's own.
type states struct {
	kept     *kept           // or nil
	shared   []uint64        // the connections of real servers (accel.Counted), or nil
	services map[uint32]bool // numbers in use
	full     uint32          // all numbers up to it are
}

func (c *states) server(id uint32) *state {
	if c.kept != nil && id < serverStates {
		return &c.kept.servers[id]
	}
	return new(state)
}

// counts returns where a real server's connections are counted that has none yet, or nil.
func (c *states) counts(id uint32) *uint64 {
	if id >= uint32(len(c.shared)/2) {
		return nil
	}
	c.shared[id] = 0
	return &c.shared[id]
}

// service returns the state of service number n; 0 takes a free number.
func (c *states) service(n uint32) (uint32, *state) {
	if c.services == nil {
		c.services = map[uint32]bool{}
	}
	fresh := n == 0
	if fresh {
		for n = c.full + 1; c.services[n]; n++ {
		}
		c.full = n
	}
	c.services[n] = true
	at := new(state)
	if c.kept != nil && n < serviceStates {
		at = &c.kept.services[n]
	}
	if fresh {
		*at = state{}
	}
	return n, at
}

func (c *states) freeService(n uint32) {
	delete(c.services, n)
	c.full = min(c.full, n-1)
}

// SetGeneration says which generation the present timeouts are, in a path that goes on
// with an earlier process's tables.
func (st *State) SetGeneration(gen uint32) { st.conns.SetGeneration(gen) }
