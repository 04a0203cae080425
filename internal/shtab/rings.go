package shtab

import (
	"fmt"
	"sync/atomic"
)

// Rings are how a table's owner and programs that insert entries by themselves work
// together: for each CPU, a fill ring of overflow slots that its programs may use, and a
// completion ring of the slots in which they have inserted entries. A daemon that has such programs
// may leave its table to one that has not, and the other way round, as both keep to
// this.
//
// A cell holds 0, or a slot's number and 1. The producer puts where it finds 0,
// the consumer takes by exchanging with 0, and each keeps its own position: a
// ring is full, or empty, where the next cell says so. While rings are closed there
// is a mark in the cells of the completion ring: programs find it full, and insert
// nothing.
//
// A program inserts an entry, if the key was not found, in these steps:
//
//   - It looks whether its next cell of the completion ring is 0. Else the packet is Go's.
//   - It claims the home slot, or the one beside it: a word of 0 becomes limbo, by
//     compare and swap, as in Insert. If both are taken, it takes a slot from the
//     fill ring.
//   - It writes the key, stamp, state and count, and exchanges the word for its own,
//     which is a full barrier.
//   - It puts an overflow slot at the head of the home slot's chain, by compare and
//     swap. Only the owner takes slots out of chains, and no slot that was in one
//     gets back into one before a grace period has passed: the head that a program
//     has read is the same slot if it is the same number.
//   - It puts the slot's number into the completion ring, by compare and swap, and moves
//     its position on.
//
// A program that changes an entry's state tells that in the completion ring, too, with
// ChangedCell. What the state means, and when a change is to be told, is the owner's.
//
// An entry in a home slot may be told of by another one instead, of another table, that leads to it
// and is put into that table's completion ring: it is in none then.
//
// From then on an inserted entry is the owner's, who counts it (Table.CountOpened). If two inserted entries
// of one key, or the chain's head changed too often, a look-up of the key finds
// another slot than this: the owner removes what is not found. One that was published late, in a better
// place than another of its key, hides that: if the owner has that one already, it removes the late one (First).
//
// Rings may be used beside the table's owner, by one goroutine.
type Rings struct {
	cpus []cpuRings
	at   []ringsAt
}

// ringsAt are the owner's positions in a CPU's rings.
type ringsAt struct{ fill, completion uint32 }

// closed is the mark in the cells of a closed ring. No slot has the number.
const closed = 1<<32 - 1

// NewRings lays the rings of so many CPUs over block, which must have RingsSize
// bytes, start on a cache line, and be zero or have had rings. They are closed.
func NewRings(block []byte, cpus int) (*Rings, error) {
	list, err := RecordsOver[cpuRings](block, cpus)
	if err != nil {
		return nil, fmt.Errorf("no memory for the rings of %d CPUs: %w", cpus, err)
	}
	r := &Rings{cpus: list, at: make([]ringsAt, cpus)}
	r.Close()
	return r, nil
}

// RingsSize returns how much memory the rings of so many CPUs take, in bytes.
func RingsSize(cpus int) int { return RecordsSize[cpuRings](cpus) }

// Close ends that programs insert entries, and takes back the slots that they were
// given, of which Adopt then finds that they are free. One that is running may still
// insert an entry: a grace period has to pass before Adopt.
func (r *Rings) Close() {
	for i := range r.cpus {
		c := &r.cpus[i]
		for at := range c.completion {
			atomic.StoreUint32(&c.completion[at], closed)
		}
		for at := range c.fill {
			atomic.StoreUint32(&c.fill[at], 0)
		}
	}
}

// Open has programs insert entries from now on.
func (r *Rings) Open() {
	for i := range r.cpus {
		c := &r.cpus[i]
		r.at[i] = ringsAt{fill: atomic.LoadUint32(&c.fillAt), completion: atomic.LoadUint32(&c.completionAt)}
		for at := range c.completion {
			atomic.StoreUint32(&c.completion[at], 0)
		}
	}
}

// Fill gives a slot (Table.Reserve) to a CPU's programs, and reports whether there was
// room.
func (r *Rings) Fill(cpu int, slot uint32) bool {
	cell := &r.cpus[cpu].fill[r.at[cpu].fill%RingCells]
	if !atomic.CompareAndSwapUint32(cell, 0, slot+1) {
		return false
	}
	r.at[cpu].fill++
	return true
}

// Cells is room for what Completed takes.
type Cells [16]uint32

// Completed takes the next cells of a CPU's completion ring that programs have filled, into to,
// and returns those. Each has the number, and 1, of a slot in which a program has inserted an
// entry, for Table.CountOpened, or with ChangedCell of one whose state it has changed.
func (r *Rings) Completed(cpu int, to *Cells) []uint32 {
	c, at := &r.cpus[cpu], r.at[cpu].completion
	n := 0
	for n < len(to) {
		cell := &c.completion[at%RingCells]
		v := atomic.LoadUint32(cell)
		// Closed meanwhile, by the next daemon: that is its ring.
		if v == 0 || v == closed || !atomic.CompareAndSwapUint32(cell, v, 0) {
			break
		}
		to[n] = v
		n++
		at++
	}
	r.at[cpu].completion = at
	return to[:n]
}

// Answered returns how many entries programs say that they have found answered, modulo 2^32.
func (r *Rings) Answered() (n uint32) {
	for i := range r.cpus {
		n += atomic.LoadUint32(&r.cpus[i].answered)
	}
	return n
}

// AllowConcurrentInsert says that programs may insert entries, before the rings are opened:
// Insert then competes with them.
func (t *Table) AllowConcurrentInsert() { t.concurrent = true }

// Reserve takes an overflow slot out of the table, for Rings.Fill.
func (t *Table) Reserve() (slot uint32, ok bool) {
	if t.free.empty() {
		return 0, false
	}
	return t.free.pop(), true
}

// KeepSpare has neither Insert nor Reserve take the last n overflow slots, from now on.
func (t *Table) KeepSpare(n int) { t.free.kept = n }

// Short reports whether there are less than twice as many overflow slots as are kept.
func (t *Table) Short() bool { return t.free.n < 2*t.free.kept }

// Unreserve returns a slot that was reserved and not put into a ring.
func (t *Table) Unreserve(slot uint32) { t.free.push(slot) }

// CountOpened counts the entry that a program has inserted in slot i. It may be another's
// double, which a look-up does not find: then it is to be removed.
func (t *Table) CountOpened(i uint32) { t.used++ }
