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
	"fmt"
	"time"

	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/internal/timerwheel"
)

// Options say how large a table is. Max and Hz are required.
type Options struct {
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
	// Ahead, if it is not nil, is called for some entries before the time of the
	// first of them is over. If it reads what over will need, that is loaded for all
	// of them at the same time. What it returns means nothing.
	Prefetch func(i uint32) uint32
	// Quarantine keeps the slots of entries that ended until Free: somebody else
	// reads Memory too.
	Quarantine bool
}

// Table is a shared table with a record of E beside each slot. Make it with
// New. It is not safe for concurrent use.
type Table[E any] struct {
	*shtab.Table
	recs     []record[E]
	wheel    *timerwheel.Wheel
	hz       uint32
	onExpire func(i uint32)
	own      []block
	// The slot, and 1, of an entry that has been started and whose timer is not set:
	// it is most probably given another timeout at once.
	fresh uint32
	// Slots that are not to be used yet.
	quarantine bool
	retired    []uint32
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

// New makes an empty table, or takes one over. E must hold no pointers. over is
// called for each entry whose time is over, with its timer unset: it ends it, or
// gives it a new time.
func New[E any](o Options, over func(i uint32)) (*Table[E], error) {
	if o.Hz == 0 {
		return nil, errors.New("expiring: Options need Hz")
	}
	t := &Table[E]{hz: o.Hz, onExpire: over, quarantine: o.Quarantine}
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
	ahead := t.Stamp
	if o.Prefetch != nil {
		ahead = func(i uint32) uint32 { return t.Stamp(i) + o.Prefetch(i) }
	}
	t.wheel.SetPrefetch(ahead)
	if o.Adopt {
		t.rearmAll()
		if !o.Quarantine {
			t.Free(t.Retired())
		}
	}
	return t, nil
}

// mapMemory lays the table and its records over their memory.
func (t *Table[E]) mapMemory(o Options) error {
	memory, err := t.memory(o.Memory, shtab.Size(max(o.Max, 1)))
	if err != nil {
		return err
	}
	if o.Adopt {
		t.Table, t.retired, err = shtab.Adopt(memory, o.Max, o.Hz)
	} else {
		t.Table, err = shtab.New(memory, o.Max, o.Hz)
	}
	if err != nil {
		return err
	}
	if memory, err = t.memory(o.Records, RecordsSize[E](o.Max)); err != nil {
		return err
	}
	if t.recs, err = shtab.RecordsOver[record[E]](memory, t.Slots()); err != nil {
		return fmt.Errorf("expiring: %w", err)
	}
	return nil
}

// memory is what was given, or if that is nil the table's own.
func (t *Table[E]) memory(given []byte, size int) ([]byte, error) {
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
func (t *Table[E]) Populate() {
	for _, b := range t.own {
		shtab.Populate(b.bytes)
	}
}

// rearmAll sets the timers of adopted entries.
func (t *Table[E]) rearmAll() {
	for i := range uint32(t.Slots()) {
		if t.Valid(i) {
			t.wheel.Set(i, t.Stamp(i)+t.recs[i].timeout)
		}
	}
}

// RecordsSize is how many bytes the records of a table for max entries take.
func RecordsSize[E any](max int) int { return shtab.RecordsSize[record[E]](shtab.Slots(max)) }

// Close gives back the memory that New took. The table is gone then.
func (t *Table[E]) Close() {
	for _, b := range t.own {
		b.free()
	}
	t.own = nil
}

// Owner is the record of the owner's beside slot i.
func (t *Table[E]) Owner(i uint32) *E { return &t.recs[i].owner }

// TouchNew is Touch for a key that is probably new: it loads the line of its record
// too.
func (t *Table[E]) TouchNew(h uint64) uint32 {
	return t.Table.TouchNew(h) + t.recs[t.Home(h)].timeout
}

// Rearm gives an entry whose time is over another one, from now on.
func (t *Table[E]) Rearm(i, timeout, now uint32) {
	t.recs[i].timeout = timeout
	t.SetStamp(i, now)
	t.wheel.Set(i, now+timeout)
}

// Arm gives a new entry its time to live, from now on.
func (t *Table[E]) Arm(i, timeout, now uint32) {
	t.armFresh()
	t.recs[i].timeout = timeout
	t.SetStamp(i, now)
	t.fresh = i + 1
}

// armFresh sets the timer of the entry that was started last, if nobody has.
func (t *Table[E]) armFresh() {
	if t.fresh == 0 {
		return
	}
	i := t.fresh - 1
	t.fresh = 0
	t.wheel.Set(i, t.Stamp(i)+t.recs[i].timeout)
}

// Restart is a use at tick now of an entry whose timeout may have changed. The
// timer has to move only if it would fire too late.
func (t *Table[E]) Restart(i, timeout, now uint32) {
	t.recs[i].timeout = timeout
	t.SetStamp(i, now)
	if t.fresh == i+1 {
		t.fresh = 0
	}
	if due, ok := t.wheel.Due(i); !ok || int32(due-(now+timeout)) > 0 {
		t.wheel.Set(i, now+timeout)
	}
}

// ArmFromStamp sets the timer of an entry that came into the table without Arm: timeout
// runs from its stamp on.
func (t *Table[E]) ArmFromStamp(i, timeout uint32) {
	t.recs[i].timeout = timeout
	t.wheel.Set(i, t.Stamp(i)+timeout)
}

// End removes an entry, and frees its slot at once, or in quarantine.
func (t *Table[E]) End(i uint32) {
	if t.fresh == i+1 {
		t.fresh = 0
	}
	t.wheel.Unset(i)
	t.Remove(i)
	if t.quarantine {
		t.retired = append(t.retired, i)
		return
	}
	t.Release(i)
}

// Retired takes the slots that are in quarantine. When nobody can still hold what
// they were, they are given back by Free.
func (t *Table[E]) Retired() []uint32 {
	list := t.retired
	t.retired = nil
	return list
}

// Free gives slots back that Retired took.
func (t *Table[E]) Free(list []uint32) {
	for _, i := range list {
		t.Release(i)
	}
}

// Advance moves the clock to tick now, and calls over for what is due. It looks
// at no more than budget entries, and reports true when there are more to do.
func (t *Table[E]) Advance(now uint32, budget int) (more bool) {
	t.armFresh()
	return t.wheel.Advance(now, budget)
}

// Now is the tick up to which time has moved.
func (t *Table[E]) Now() uint32 { return t.wheel.Now() }

// fire is the wheel's call when a timer has run out. The stamp may lie ahead of
// a wheel that has fallen behind.
func (t *Table[E]) fire(i uint32) {
	stamp, timeout := t.Stamp(i), t.recs[i].timeout
	if int32(t.wheel.Now()-stamp) < int32(timeout) {
		t.wheel.Set(i, stamp+timeout)
		return
	}
	t.onExpire(i)
}

// Expires is how long the entry has to live if it is not used.
func (t *Table[E]) Expires(i, now uint32) time.Duration {
	left := int32(t.Stamp(i) + t.recs[i].timeout - now)
	return t.Duration(uint32(max(left, 0)))
}

// Duration and Ticks change between the two units of time.
func (t *Table[E]) Duration(ticks uint32) time.Duration {
	return time.Duration(ticks) * time.Second / time.Duration(t.hz)
}

// Ticks is a duration in ticks, rounded down.
func (t *Table[E]) Ticks(d time.Duration) uint32 {
	return uint32(d * time.Duration(t.hz) / time.Second)
}

// Each calls yield for the entries in slots from on, and looks at no more than
// budget slots. It returns where to go on, and false when it came to the end.
// Entries that come and go between two calls may be missed, and those that are Pending
// are; yield may end the one that it is called for.
func (t *Table[E]) Each(from uint32, budget int, yield func(i uint32)) (next uint32, more bool) {
	end := min(int(from)+budget, t.Slots())
	for i := from; i < uint32(end); i++ {
		if t.Live(i) {
			yield(i)
		}
	}
	return uint32(end), end < t.Slots()
}
