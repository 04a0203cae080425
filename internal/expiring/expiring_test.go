package expiring_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/shtab"
)

type id uint32

// record is the owner's: the name that the twin knows an entry by.
type record struct{ name uint64 }

const hz = 250

// entry is what the twin knows of an entry.
type entry struct {
	id                       id
	stamp, timeout           uint32
	hidden, pending, rearmed bool
}

// twin is a table and the same in a map, which looks at everything at each step.
type twin struct {
	t       *testing.T
	r       *rand.Rand
	table   *expiring.Table[id, record]
	options expiring.Options[id]
	slow    map[uint64]*entry
	now     uint32
	next    uint64
	expired []uint64
	retired map[id]bool // slots in quarantine
}

func keyOf(name uint64) *shtab.Key {
	var k shtab.Key
	k[0], k[3] = name, name*0x9e3779b97f4a7c15
	return &k
}

func newTwin(t *testing.T, seed uint64, quarantine bool) *twin {
	w := &twin{t: t, r: rand.New(rand.NewPCG(seed, 1)), slow: map[uint64]*entry{}, retired: map[id]bool{}, now: 1 << 31, next: 1}
	memory, free, err := shtab.Memory(shtab.Size(most))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	records, freeRecords, err := shtab.Memory(expiring.RecordsSize[record](most))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(freeRecords)
	w.options = expiring.Options[id]{Max: most, Hz: hz, Now: w.now, Memory: memory, Records: records, Quarantine: quarantine,
		Prefetch: func(at id) uint32 { return uint32(w.table.Record(at).name) }}
	if w.table, err = expiring.New[id, record](w.options, w.onExpire); err != nil {
		t.Fatal(err)
	}
	return w
}

const most = 64

// onExpire ends an entry whose time is over, or gives one in four another time.
func (w *twin) onExpire(at id) {
	name := w.table.Record(at).name
	e := w.slow[name]
	if e == nil || e.id != at {
		w.t.Fatalf("entry %d of nobody expired", at)
	}
	if e.stamp+e.timeout-w.table.Now() != 0 && int32(e.stamp+e.timeout-w.table.Now()) > 0 {
		w.t.Fatalf("%d expired at tick %d, due at %d", name, w.table.Now(), e.stamp+e.timeout)
	}
	if !e.rearmed && w.r.IntN(4) == 0 {
		e.stamp, e.timeout, e.rearmed = w.table.Now(), uint32(1+w.r.IntN(300)), true
		w.table.Rearm(at, e.timeout, e.stamp)
		return
	}
	w.expired = append(w.expired, name)
	w.end(name)
}

func (w *twin) end(name uint64) {
	at := w.slow[name].id
	w.table.End(at)
	delete(w.slow, name)
	if w.options.Quarantine {
		w.retired[at] = true
	}
}

// any is one of the entries, or nil.
func (w *twin) any() (name uint64, e *entry) {
	names := make([]uint64, 0, len(w.slow))
	for n := range w.slow {
		names = append(names, n)
	}
	if len(names) == 0 {
		return 0, nil
	}
	slices.Sort(names)
	name = names[w.r.IntN(len(names))]
	return name, w.slow[name]
}

func (w *twin) insert(pending bool) {
	name, timeout := w.next, uint32(1+w.r.IntN(1000))
	w.next++
	state := uint32(0)
	if pending {
		state = expiring.PendingFlag
	}
	k := keyOf(name)
	at, err := w.table.Insert(k, w.table.Hash(k), name, w.now, state)
	if errors.Is(err, shtab.ErrFull) {
		if len(w.slow)+len(w.retired) < most {
			w.t.Fatalf("full with %d entries and %d in quarantine, of %d", len(w.slow), len(w.retired), most)
		}
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if w.retired[at] {
		w.t.Fatalf("slot %d was used again in its quarantine", at)
	}
	w.table.Record(at).name = name
	e := &entry{id: at, stamp: w.now, timeout: timeout, pending: pending}
	if !pending {
		w.table.Arm(at, timeout, w.now)
	}
	w.slow[name] = e
}

func (w *twin) step() {
	name, e := w.any()
	switch op := w.r.IntN(12); {
	case op < 4 || e == nil:
		w.insert(op == 0)
	case e.pending:
		// Its owner takes it over: the time runs from when it was opened.
		e.pending, e.timeout = false, uint32(1+w.r.IntN(1000))
		w.table.SetState(e.id, 0)
		w.table.ArmFromStamp(e.id, e.timeout)
	case op < 6: // a program uses it: the stamp alone
		e.stamp = w.now
		w.table.SetStamp(e.id, e.stamp)
	case op < 7: // a program's clock is a little ahead
		e.stamp = w.now + uint32(w.r.IntN(3))
		w.table.SetStamp(e.id, e.stamp)
	case op < 9:
		e.stamp, e.timeout = w.now, uint32(1+w.r.IntN(500))
		w.table.Restart(e.id, e.timeout, w.now)
	case op < 10:
		w.end(name)
	case op < 11 && !e.hidden:
		e.hidden = true
		w.table.Hide(e.id)
	default:
		w.table.Free(w.table.Retired())
		clear(w.retired)
	}
}

// advance moves time, and compares what has expired with what had to.
func (w *twin) advance(by uint32) {
	w.now += by
	for budget := 1 + w.r.IntN(8); w.table.Advance(w.now, budget); {
	}
	for name, e := range w.slow {
		if left := int32(e.stamp + e.timeout - w.now); !e.pending && left <= 0 {
			w.t.Fatalf("%d is %d ticks overdue", name, -left)
		}
		e.rearmed = false
	}
}

// compare looks at every entry.
func (w *twin) compare() {
	t := w.t
	if w.table.Len() != len(w.slow) {
		t.Fatalf("%d entries, want %d", w.table.Len(), len(w.slow))
	}
	for name, e := range w.slow {
		k := keyOf(name)
		at, ok := w.table.Lookup(k, w.table.Hash(k))
		if ok == e.hidden || ok && at != e.id {
			t.Fatalf("%d: found %v at %d, want %v at %d", name, ok, at, !e.hidden, e.id)
		}
		if w.table.Value(e.id) != name || *w.table.Key(e.id) != *k || w.table.Record(e.id).name != name {
			t.Fatalf("%d is another", name)
		}
		if w.table.Pending(e.id) != e.pending || w.table.Live(e.id) == e.pending {
			t.Fatalf("%d: pending %v, live %v", name, w.table.Pending(e.id), w.table.Live(e.id))
		}
		if e.pending {
			continue
		}
		left := max(int32(e.stamp+e.timeout-w.now), 0)
		if got, want := w.table.Expires(e.id, w.now), time.Duration(left)*time.Second/hz; got != want {
			t.Fatalf("%d expires in %v, want %v", name, got, want)
		}
	}
	var listed []uint64
	for at, more := id(0), true; more; {
		at, more = w.table.Each(at, 1+w.r.IntN(20), func(i id) { listed = append(listed, w.table.Record(i).name) })
	}
	slices.Sort(listed)
	var want []uint64
	for name, e := range w.slow {
		if !e.pending {
			want = append(want, name)
		}
	}
	if slices.Sort(want); !slices.Equal(listed, want) {
		t.Fatalf("listed %v, want %v", listed, want)
	}
}

// adopt has another table take the memory over.
func (w *twin) adopt() {
	o := w.options
	o.Now, o.Adopt = w.now, true
	table, err := expiring.New[id, record](o, w.onExpire)
	if err != nil {
		w.t.Fatal(err)
	}
	w.table = table
	w.table.Free(w.table.Retired())
	clear(w.retired)
	// Those that are pending are taken over, and the rest have their timers already.
	w.table.EachPending(func(at id) {
		e := w.slow[w.table.Value(at)]
		e.pending, e.timeout = false, uint32(1+w.r.IntN(100))
		w.table.SetState(at, 0)
		w.table.ArmFromStamp(at, e.timeout)
	})
}

// TestTwin compares a table with one that looks at everything, at each step.
func TestTwin(t *testing.T) {
	for _, quarantine := range []bool{false, true} {
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("seed %d, quarantine %v", seed, quarantine), func(t *testing.T) {
				w := newTwin(t, seed, quarantine)
				for range 2000 {
					w.step()
					if w.r.IntN(3) == 0 {
						w.advance(uint32(1 + w.r.IntN(40)))
					}
					w.compare()
				}
				if w.advance(2000); len(w.expired) < 100 {
					t.Errorf("only %d expired", len(w.expired))
				}
			})
		}
	}
}

// TestAdopt has the memory taken over in the midst of it.
func TestAdopt(t *testing.T) {
	for seed := range uint64(20) {
		w := newTwin(t, seed, seed%2 == 0)
		for range 30 {
			for range 50 {
				w.step()
				if w.r.IntN(3) == 0 {
					w.advance(uint32(1 + w.r.IntN(40)))
				}
			}
			w.adopt()
			w.compare()
		}
	}
}

// TestOpened: an entry that a program has made is counted once, and a double of one that
// is there is ended.
func TestOpened(t *testing.T) {
	w := newTwin(t, 1, true)
	w.insert(true)
	at := w.slow[1].id
	used := w.table.Len()
	if !w.table.Opened(at, nil) || w.table.Len() != used+1 {
		t.Fatalf("the entry was not counted: %d, %d before", w.table.Len(), used)
	}
	w.table.SetState(at, 0)
	w.table.ArmFromStamp(at, 10)
	if w.table.Opened(at, nil) || w.table.Len() != used+1 {
		t.Error("an entry that has been taken over was counted again")
	}
	// Hidden, so that Insert permits another one; the look-up finds the second.
	w.table.Hide(at)
	k := keyOf(1)
	second, err := w.table.Insert(k, w.table.Hash(k), 2, w.now, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.table.Arm(second, 10, w.now)
	w.table.SetState(at, expiring.PendingFlag)
	if used = w.table.Len(); w.table.Opened(at, nil) || w.table.Len() != used {
		t.Errorf("a double was kept: %d entries, %d before", w.table.Len(), used)
	}
	if got := w.table.Value(second); got != 2 {
		t.Errorf("the other entry's value is %d, want 2", got)
	}
}

func TestOptions(t *testing.T) {
	if _, err := expiring.New[id, record](expiring.Options[id]{Max: 1}, func(id) {}); err == nil {
		t.Error("without Hz there is a table")
	}
	if _, err := expiring.New[id, record](expiring.Options[id]{Max: 1, Hz: hz, Memory: make([]byte, 1)}, func(id) {}); err == nil {
		t.Error("a byte suffices for a table")
	}
}
