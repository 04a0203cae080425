// Package persist keeps connection templates: which real server a client was
// given, so that its next connections get the same one. It is for packages forward and
// dataplane/xdp, and not covered by compatibility.
//
// A template is the kernel's IP_VS_CONN_F_TEMPLATE entry
// (net/netfilter/ipvs/ip_vs_core.c, ip_vs_sched_persist). It lives for the
// service's persistent timeout after the last connection that it gave, and as
// long as it controls connections. There may be no more than a fixed number of
// them: Evict makes room.
package persist

import (
	"errors"
	"slices"
	"time"

	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/shtab"
)

// ID is the number of a template while it lives. Numbers are used again.
type ID uint32

// ErrFull says that there are as many templates as there may be, or that the slots of
// those that have ended are in quarantine still.
var ErrFull = shtab.ErrFull

// grace is what a template gets whose time is over while it controls
// connections (ip_vs_conn.c, ip_vs_conn_expire: 60*HZ).
const grace = 60 * time.Second

// Options say how large a table is and what happens when templates end.
type Options struct {
	// Max is the most templates there can be. Required.
	Max int
	// Hz is how many ticks a second has in all times given to the table, and
	// Now the tick at which it starts. Hz is required.
	Hz, Now uint32
	// Memory is the shared memory to use, MemorySize(Max) bytes, and Records what
	// Go alone uses, RecordsSize(Max) bytes. They are zero, or with Adopt hold what
	// a process before this one left there. nil is anonymous memory.
	Memory, Records []byte
	Adopt           bool
	// Quarantine keeps the slots of templates that ended until Free: an XDP program
	// reads Memory too.
	Quarantine bool
	// Ended is called for each template that goes, expired or evicted, just
	// before it does. It must not change the table. Required.
	Ended func(ID)
}

// MemorySize returns how many bytes of shared memory a table for max templates has,
// and RecordsSize the same of the records beside it.
func MemorySize(max int) int  { return shtab.Size(max) }
func RecordsSize(max int) int { return expiring.RecordsSize[record](max) }

// record is what Go alone keeps of a template, besides its timer: together 28
// bytes.
type record struct {
	// uses is how many connections it controls (the kernel's n_control), and answered if a
	// client has answered by one that it gave.
	uses uint32
	// Neighbours in the list of those that control nothing, oldest first, as
	// index+1; 0: none.
	older, newer ID
}

// Flags in an entry's state word, beside expiring.Made.
const (
	flagAssured = 1 << iota // IP_VS_CTPL_S_ASSURED
	flagInvalid             // its real server was gone when it was tried
	flagStarted             // its record is its own
)

// OpenedState is the state word of a template that a program makes.
const OpenedState = expiring.PendingFlag

// Table is a table of templates. Make it with New. It is not safe for
// concurrent use: the director's forwarding lock guards it.
type Table struct {
	*expiring.Table[ID, record]
	ended      func(ID)
	evicted    [2]uint64
	quarantine bool
	described  map[ID]engineTemplate

	// Those that control nothing: whose client never answered, and the others.
	idle [2]list
	// unanswered are all whose client never answered.
	unanswered int
	// One that was just made, as index+1, and that is not on that list: it is most
	// probably given a connection at once.
	fresh ID
}

// New makes an empty table, or takes one over.
func New(o Options) (*Table, error) {
	if o.Ended == nil {
		return nil, errors.New("persist.Options need Ended")
	}
	t := &Table{ended: o.Ended, quarantine: o.Quarantine}
	var err error
	t.Table, err = expiring.New[ID, record](expiring.Options[ID]{Max: o.Max, Hz: o.Hz, Now: o.Now, Memory: o.Memory,
		Records: o.Records, Adopt: o.Adopt, Quarantine: o.Quarantine, Prefetch: t.prefetch}, t.onExpire)
	if err != nil {
		return nil, err
	}
	if o.Adopt {
		t.adopt()
	}
	return t, nil
}

// adopt makes the list of those that control nothing anew, which are all until
// Adopt is called for their connections.
func (t *Table) adopt() {
	var all []ID
	for id := range ID(t.Slots()) {
		switch {
		case !t.Live(id):
		case t.State(id)&flagStarted == 0: // whoever made it was interrupted
			t.End(id)
		default:
			all = append(all, id)
		}
	}
	slices.SortFunc(all, func(a, b ID) int { return int(int32(t.Stamp(a) - t.Stamp(b))) })
	for _, id := range all {
		t.Record(id).uses &= answered
		t.lruPush(id)
		if t.Record(id).uses&answered == 0 {
			t.unanswered++
		}
		if k := (*Key)(t.Table.Key(id)); k.engine() {
			t.Describe(id, k.anonymous(), "", nil)
		}
	}
}

// Adopt says of a template of an adopted table that it controls a connection.
func (t *Table) Adopt(id ID) {
	r := t.Record(id)
	if r.controls() == 0 {
		t.lruRemove(id)
	}
	r.uses++
}

// Evicted returns how many templates have made room for others so far: of clients that
// had answered, and of others.
func (t *Table) Evicted() (answered, unanswered uint64) { return t.evicted[1], t.evicted[0] }

// Hash returns the hash of a key, for Touch, Lookup and Insert.
func (t *Table) Hash(k *Key) uint64 { return t.Table.Hash((*shtab.Key)(k)) }

// Lookup finds the template of a key (ip_vs_conn.c, ip_vs_ct_in_get).
func (t *Table) Lookup(k *Key, hash uint64) (ID, bool) {
	return t.Table.Lookup((*shtab.Key)(k), hash)
}

// Insert makes a template that leads to real server dest (not 0) and lives for
// timeout. The key must have none. The error is ErrFull.
func (t *Table) Insert(k *Key, hash uint64, dest uint32, timeout time.Duration, now uint32) (ID, error) {
	id, err := t.Table.Insert((*shtab.Key)(k), hash, uint64(dest), now, 0)
	if err != nil {
		return 0, err
	}
	t.lruFlush()
	*t.Record(id) = record{}
	t.fresh = id + 1
	t.Arm(id, t.Ticks(timeout), now)
	t.SetState(id, flagStarted)
	t.unanswered++
	return id, nil
}

// Evict ends the template that has controlled nothing for the longest time, of those whose
// client has answered or of those whose has not, and reports whether there was one. In
// quarantine, what is ended makes room later.
func (t *Table) Evict(answered bool) bool {
	t.lruFlush()
	class := 0
	if answered {
		class = 1
	}
	oldest := t.idle[class].oldest
	if oldest == 0 {
		return false
	}
	t.end(oldest - 1)
	t.evicted[class]++
	return true
}

// Invalidate hides a template whose real server is gone: it will not be found
// again, and lives on until its time is over
// (ip_vs_conn.c, ip_vs_check_template).
func (t *Table) Invalidate(id ID) {
	t.SetState(id, t.State(id)|flagInvalid)
	t.Hide(id)
}

// Control says that the template has given a connection, which restarts its
// time (ip_vs_control_add, ip_vs_conn_put).
func (t *Table) Control(id ID, now uint32) {
	r := t.Record(id)
	if r.controls() == 0 {
		t.lruRemove(id)
	}
	r.uses++
	t.SetStamp(id, now) // which the timer, set for no later, looks at
}

// Controlled says that a program has given a connection by the template, at a tick
// that may be over: what came after has not restarted its time less.
func (t *Table) Controlled(id ID, at uint32) {
	r := t.Record(id)
	if r.controls() == 0 {
		t.lruRemove(id)
	}
	r.uses++
	if int32(at-t.Stamp(id)) > 0 {
		t.SetStamp(id, at)
	}
}

// Release says that a connection that the template controlled has ended, and whether its
// client had answered (ip_vs_control_del).
func (t *Table) Release(id ID, answered bool) {
	if answered {
		t.answer(id)
	}
	r := t.Record(id)
	if r.uses--; r.controls() == 0 {
		t.lruFlush()
		t.lruPush(id)
	}
}

// TouchRecord starts to load what Release will need. What it returns means nothing.
func (t *Table) TouchRecord(id ID) uint32 { return t.Record(id).uses }

// Assure says that a controlled connection was established
// (ip_vs_control_assure_ct).
func (t *Table) Assure(id ID) {
	t.answer(id)
	t.SetState(id, t.State(id)|flagAssured)
}

// Remove ends a template that controls nothing, now; Ended is called.
func (t *Table) Remove(id ID) { t.end(id) }

// onExpire ends a template whose time is over. One that controls connections
// gets another minute, and keeps this as its timeout (ip_vs_conn_expire).
func (t *Table) onExpire(id ID) {
	if t.Record(id).controls() > 0 {
		t.Rearm(id, t.Ticks(grace), t.Now())
		return
	}
	t.end(id)
}

// prefetch loads the neighbour of a template that will end.
func (t *Table) prefetch(id ID) uint32 {
	newer := t.Record(id).newer
	if newer == 0 {
		return 0
	}
	return uint32(t.Record(newer - 1).older)
}

// end removes a template that controls nothing.
func (t *Table) end(id ID) {
	t.ended(id)
	delete(t.described, id)
	t.lruRemove(id)
	if t.Record(id).uses&answered == 0 {
		t.unanswered--
	}
	t.End(id)
}

// Accept makes of a template that a program has opened what Insert would have, when the
// program did.
func (t *Table) Accept(id ID, timeout time.Duration) {
	t.lruFlush()
	*t.Record(id) = record{}
	t.fresh = id + 1
	t.ArmFromStamp(id, t.Ticks(timeout))
	t.SetState(id, flagStarted)
	t.unanswered++
}

// Discard ends a template that was not taken, without Ended.
func (t *Table) Discard(id ID) { t.End(id) }
