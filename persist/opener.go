package persist

import (
	"time"

	"github.com/ulvs/ulvs/internal/shtab"
)

// SlotPool lends programs what they need to make templates: the rings in block, of so many
// CPUs (internal/shtab, Rings).
func (t *Table) SlotPool(block []byte, cpus int) (*shtab.SlotPool, error) {
	return t.t.SlotPool(block, cpus)
}

// Retired takes the slots that are in quarantine, and Free gives them back once
// no program can still act on what was in them.
func (t *Table) Retired() []uint32   { return t.t.Retired() }
func (t *Table) Free(slots []uint32) { t.t.Free(slots) }

// Opened counts a template that a program says it has made. False: there is nothing left
// to do for it. It was taken already; or it is another's double, made at the same
// moment, and is ended.
func (t *Table) Opened(id ID) bool { return t.t.Opened(uint32(id)) }

// Pending reports whether a program has made the template and Accept was not called for
// it yet: it has a key and a real server, and no time to live.
func (t *Table) Pending(id ID) bool { return t.t.Pending(uint32(id)) }

// EachPending calls yield for the templates of an adopted table that are Pending. yield
// takes or discards them.
func (t *Table) EachPending(yield func(ID)) { t.t.EachPending(func(i uint32) { yield(ID(i)) }) }

// Accept makes of a template that a program has made what Insert would have, when the
// program did.
func (t *Table) Accept(id ID, timeout time.Duration) {
	i := uint32(id)
	t.lruFlush()
	*t.t.Owner(i) = record{}
	t.fresh = i + 1
	t.t.ArmFromStamp(i, t.t.Ticks(timeout))
	t.t.SetState(i, flagStarted)
}

// Discard ends a template that was not taken, without Ended.
func (t *Table) Discard(id ID) { t.t.End(uint32(id)) }
