// Package expiring is a shared table (internal/shtab) whose entries have a time
// to live: what connections and connection templates have in common.
//
// Each use of an entry restarts its time (net/netfilter/ipvs/ip_vs_conn.c,
// ip_vs_conn_put). Here a use only writes the time into the entry's stamp; the
// timer is looked at when it fires, and moves on if the entry was used
// meanwhile.
package expiring

import (
	"errors"
	"time"

	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/internal/timerwheel"
)

// Options say how large a table is. Max and Hz are required.
type Options[ID ~uint32] struct {
	// Max is the most entries there can be.
	Max int
	// Hz is how many ticks a second has in all times given to the table, and
	// Now the tick at which it starts.
	Hz, Now uint32
	// Memory is the shared memory to use, shtab.Size(Max) bytes, and Records that
	// for the records beside it, RecordsSize(Max) bytes. They are zero, or with
	// Adopt hold what a process before this one left there. nil is anonymous
	// memory.
	Memory, Records []byte
	Adopt           bool
	// Prefetch, if it is not nil, is called for some entries before the time of the
	// first of them is over. If it reads what onExpire will need, that is loaded for all
	// of them at the same time. What it returns means nothing.
	Prefetch func(ID) uint32
	// Quarantine keeps the slots of entries that ended until Free: somebody else
	// reads Memory too.
	Quarantine bool
}

// Table is a shared table with a record of E beside each slot, whose entries are known by
// IDs: the numbers of their slots. Make it with New. It is not safe for concurrent use.
type Table[ID ~uint32, E any] struct {
	entries[ID]
	recs     []record[E]
	wheel    *timerwheel.Wheel
	hz       uint32
	onExpire func(ID)
	own      []block
	// The slot, and 1, of an entry that has been started and whose timer is not set:
	// it is most probably given another timeout at once.
	fresh uint32
	// Slots that are not to be used yet.
	quarantine bool
	retired    []uint32
	waiting    int // all that are in quarantine: those that Retired has taken too
}

// block is memory of the table's own.
type block struct {
	bytes []byte
	free  func()
}

type record[E any] struct {
	timer   timerwheel.Link
	timeout uint32 // ticks
	owner   E
}

// New makes an empty table, or takes one over. E must hold no pointers. onExpire
// is called for each entry whose time is over, with its timer unset: it ends it, or
// gives it a new time.
func New[ID ~uint32, E any](o Options[ID], onExpire func(ID)) (*Table[ID, E], error) {
	if o.Hz == 0 {
		return nil, errors.New("expiring.Options need Hz")
	}
	t := &Table[ID, E]{hz: o.Hz, onExpire: onExpire, quarantine: o.Quarantine}
	if err := t.mapMemory(o); err != nil {
		t.Close()
		return nil, err
	}
	if o.Adopt {
		for i := range t.recs {
			t.recs[i].timer = timerwheel.Link{}
		}
	}
	t.wheel = timerwheel.New(t.recs, func(r *record[E]) *timerwheel.Link { return &r.timer }, o.Now, t.fire)
	prefetch := t.tab.Stamp
	if o.Prefetch != nil {
		prefetch = func(i uint32) uint32 { return t.tab.Stamp(i) + o.Prefetch(ID(i)) }
	}
	t.wheel.SetPrefetch(prefetch)
	if o.Adopt {
		t.rearmAll()
		t.waiting = len(t.retired)
		if !o.Quarantine {
			t.Free(t.Retired())
		}
	}
	return t, nil
}

// mapMemory lays the table and its records over their memory.
func (t *Table[ID, E]) mapMemory(o Options[ID]) error {
	memory, err := t.memory(o.Memory, shtab.Size(max(o.Max, 1)))
	if err != nil {
		return err
	}
	if o.Adopt {
		t.tab, t.retired, err = shtab.Adopt(memory, o.Max, o.Hz)
	} else {
		t.tab, err = shtab.New(memory, o.Max, o.Hz)
	}
	if err != nil {
		return err
	}
	if memory, err = t.memory(o.Records, RecordsSize[E](o.Max)); err != nil {
		return err
	}
	if t.recs, err = shtab.RecordsOver[record[E]](memory, t.tab.Slots()); err != nil {
		return err
	}
	return nil
}

// memory returns what was given, or if that is nil the table's own.
func (t *Table[ID, E]) memory(given []byte, size int) ([]byte, error) {
	if given != nil {
		return given, nil
	}
	bytes, free, err := shtab.Memory(size)
	if err != nil {
		return nil, err
	}
	t.own = append(t.own, block{bytes, free})
	return bytes, nil
}

// Populate has all memory of the table's own be there: else the first entries each wait
// for some.
func (t *Table[ID, E]) Populate() {
	for _, b := range t.own {
		shtab.Populate(b.bytes)
	}
}

// rearmAll sets the timers of adopted entries.
func (t *Table[ID, E]) rearmAll() {
	for i := range uint32(t.tab.Slots()) {
		if t.tab.Valid(i) {
			t.wheel.Set(i, t.tab.Stamp(i)+t.recs[i].timeout)
		}
	}
}

// RecordsSize returns how many bytes the records of a table for max entries take.
func RecordsSize[E any](max int) int { return shtab.RecordsSize[record[E]](shtab.Slots(max)) }

// Close gives back the memory that New took. The table is gone then.
func (t *Table[ID, E]) Close() {
	for _, b := range t.own {
		b.free()
	}
	t.own = nil
}

// Record returns the owner's record of an entry.
func (t *Table[ID, E]) Record(id ID) *E { return &t.recs[id].owner }

// TouchNew is Touch for a key that is probably new: it loads the line of its record
// too.
func (t *Table[ID, E]) TouchNew(h uint64) uint32 {
	return t.tab.TouchNew(h) + t.recs[t.tab.Home(h)].timeout
}

// Rearm gives an entry whose time is over another one, from now on.
func (t *Table[ID, E]) Rearm(id ID, timeout, now uint32) {
	i := uint32(id)
	t.recs[i].timeout = timeout
	t.tab.SetStamp(i, now)
	t.wheel.Set(i, now+timeout)
}

// Arm gives a new entry its time to live, from now on.
func (t *Table[ID, E]) Arm(id ID, timeout, now uint32) {
	i := uint32(id)
	t.armFresh()
	t.recs[i].timeout = timeout
	t.tab.SetStamp(i, now)
	t.fresh = i + 1
}

// armFresh sets the timer of the entry that was started last, if nobody has.
func (t *Table[ID, E]) armFresh() {
	if t.fresh == 0 {
		return
	}
	i := t.fresh - 1
	t.fresh = 0
	t.wheel.Set(i, t.tab.Stamp(i)+t.recs[i].timeout)
}

// Restart is a use at tick now of an entry whose timeout may have changed. The
// timer has to move only if it would fire too late.
func (t *Table[ID, E]) Restart(id ID, timeout, now uint32) {
	t.tab.SetStamp(uint32(id), now)
	t.retime(uint32(id), timeout, now)
}

// Retime gives an entry another timeout, from its stamp on.
func (t *Table[ID, E]) Retime(id ID, timeout uint32) {
	t.retime(uint32(id), timeout, t.tab.Stamp(uint32(id)))
}

func (t *Table[ID, E]) retime(i, timeout, from uint32) {
	t.recs[i].timeout = timeout
	if t.fresh == i+1 {
		t.fresh = 0
	}
	if due, ok := t.wheel.Due(i); !ok || int32(due-(from+timeout)) > 0 {
		t.wheel.Set(i, from+timeout)
	}
}

// ArmFromStamp sets the timer of an entry that came into the table without Arm: timeout
// runs from its stamp on.
func (t *Table[ID, E]) ArmFromStamp(id ID, timeout uint32) {
	i := uint32(id)
	t.recs[i].timeout = timeout
	t.wheel.Set(i, t.tab.Stamp(i)+timeout)
}

// End removes an entry, and frees its slot at once, or in quarantine.
func (t *Table[ID, E]) End(id ID) {
	i := uint32(id)
	if t.fresh == i+1 {
		t.fresh = 0
	}
	t.wheel.Unset(i)
	t.tab.Remove(i)
	if t.quarantine {
		t.retired = append(t.retired, i)
		t.waiting++
		return
	}
	t.tab.Release(i)
}

// Retired takes the slots that are in quarantine. When nobody can still hold what
// they were, they are given back by Free.
func (t *Table[ID, E]) Retired() []uint32 {
	list := t.retired
	t.retired = nil
	return list
}

// Quarantined returns how many slots Retired would take.
func (t *Table[ID, E]) Quarantined() int { return len(t.retired) }

// Waiting reports whether there are slots in quarantine, taken by Retired or not.
func (t *Table[ID, E]) Waiting() bool { return t.waiting > 0 }

// KeepSpare has Insert, and programs, leave the last n overflow slots, from now on.
func (t *Table[ID, E]) KeepSpare(n int) { t.tab.KeepSpare(n) }

// Short reports whether overflow slots come to an end, and none is in quarantine: entries
// that were inserted while home slots were have taken them.
func (t *Table[ID, E]) Short() bool { return t.waiting == 0 && t.tab.Short() }

// Free gives slots back that Retired took.
func (t *Table[ID, E]) Free(list []uint32) {
	t.waiting -= len(list)
	for _, i := range list {
		t.tab.Release(i)
	}
}

// Advance moves the clock to tick now, and calls onExpire for what is due. It looks
// at no more than budget entries, and reports true when there are more to do.
func (t *Table[ID, E]) Advance(now uint32, budget int) (more bool) {
	t.armFresh()
	return t.wheel.Advance(now, budget)
}

// Now returns the tick up to which time has moved.
func (t *Table[ID, E]) Now() uint32 { return t.wheel.Now() }

// fire serves the wheel when a timer has run out. The stamp may be later than
// a wheel that has fallen behind.
func (t *Table[ID, E]) fire(i uint32) {
	stamp, timeout := t.tab.Stamp(i), t.recs[i].timeout
	if int32(t.wheel.Now()-stamp) < int32(timeout) {
		t.wheel.Set(i, stamp+timeout)
		return
	}
	t.onExpire(ID(i))
}

// Expires returns how long the entry has to live if it is not used.
func (t *Table[ID, E]) Expires(id ID, now uint32) time.Duration {
	left := int32(t.Stamp(id) + t.recs[id].timeout - now)
	return t.Duration(uint32(max(left, 0)))
}

// Duration and Ticks change between the two units of time.
func (t *Table[ID, E]) Duration(ticks uint32) time.Duration {
	return time.Duration(ticks) * time.Second / time.Duration(t.hz)
}

// Ticks returns a duration in ticks, rounded down.
func (t *Table[ID, E]) Ticks(d time.Duration) uint32 {
	return uint32(d * time.Duration(t.hz) / time.Second)
}

// Each calls yield for the entries in slots from on, and looks at no more than
// budget slots. It returns where to go on, and false when it came to the end.
// Entries that come and go between two calls may be missed, and those that are Pending
// are; yield may end the one that it is called for.
func (t *Table[ID, E]) Each(from ID, budget int, yield func(ID)) (next ID, more bool) {
	end := min(int(from)+budget, t.tab.Slots())
	for id := from; id < ID(end); id++ {
		if t.Live(id) {
			yield(id)
		}
	}
	return ID(end), end < t.tab.Slots()
}
