// Package conn is the connection table: which real server a connection was
// given, in what state it is, and when it is forgotten.
//
// Entries lie in a shared table (internal/shtab), so that an XDP program can
// forward them, keep their TCP state and stamp them. What only Go needs (the
// timer, the timeout, the template) lies in a record of the same index.
//
// Each packet restarts a connection's timer (net/netfilter/ipvs/ip_vs_conn.c,
// ip_vs_conn_put). Here a packet only writes the time into the entry's stamp;
// the timer is looked at when it fires, and moves on if the entry was used
// meanwhile.
package conn

import (
	"fmt"
	"time"

	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/internal/timerwheel"
	"github.com/ulvs/ulvs/packet"
)

// ID is the number of an entry while it lives. Numbers are used again.
type ID uint32

// MaxDest is the greatest number of a real server that an entry can hold.
const MaxDest = 1<<24 - 1

// ErrFull says that the table holds as many connections as it may.
var ErrFull = shtab.ErrFull

// Options say how large a table is and what happens when entries end.
type Options struct {
	// Max is the most connections there can be. Required.
	Max int
	// Hz is how many ticks a second has in all times given to the table, and
	// Now the tick at which it starts. Hz is required.
	Hz, Now uint32
	// Memory is the shared memory to use, MemorySize(Max) zero bytes; nil is
	// anonymous memory. With Populate, that is there from the start.
	Memory   []byte
	Populate bool
	// Expired is called for each connection whose time is over, just before
	// its entry goes. It must not change the table. Required.
	Expired func(ID)
}

// MemorySize is how many bytes of shared memory a table for max connections
// has. RecordSize bytes a slot lie beside it.
func MemorySize(max int) int { return shtab.Size(max) }

// record is what Go alone keeps of a connection: 20 bytes.
type record struct {
	timer    timerwheel.Link
	timeout  uint32 // ticks; what the last packet made of it
	template uint32 // the owner's word for it; 0: none
}

// Table is a connection table. Make it with New. It is not safe for concurrent
// use: the director's forwarding lock guards it.
type Table struct {
	t        *shtab.Table
	recs     []record
	wheel    *timerwheel.Wheel
	hz       uint32
	timeouts timeouts
	secure   bool
	expired  func(ID)
	free     []func()
}

// New makes an empty table.
func New(o Options) (*Table, error) {
	if o.Hz == 0 || o.Expired == nil {
		return nil, fmt.Errorf("conn: Options need Hz and Expired")
	}
	t := &Table{hz: o.Hz, expired: o.Expired}
	block := o.Memory
	if block == nil {
		var free func()
		var err error
		if block, free, err = shtab.Memory(MemorySize(max(o.Max, 1)), o.Populate); err != nil {
			return nil, err
		}
		t.free = append(t.free, free)
	}
	tab, err := shtab.New(block, o.Max, o.Hz)
	if err != nil {
		t.Close()
		return nil, err
	}
	t.t = tab
	recs, free, err := shtab.AllocRecords[record](tab.Slots(), o.Populate)
	if err != nil {
		t.Close()
		return nil, err
	}
	t.recs = recs
	t.free = append(t.free, free)
	t.wheel = timerwheel.New(recs, func(r *record) *timerwheel.Link { return &r.timer }, o.Now, t.fire)
	t.timeouts = defaultTimeouts(o.Hz)
	return t, nil
}

// Close gives back the memory that New took. The table is gone then.
func (t *Table) Close() {
	for _, free := range t.free {
		free()
	}
	t.free = nil
}

// Len is how many connections there are, Max how many there can be.
func (t *Table) Len() int { return t.t.Len() }

// Max is the most connections that the table can hold.
func (t *Table) Max() int { return t.t.Max() }

// Hash is the hash of a flow, for Touch, Lookup and Insert.
func (t *Table) Hash(f *packet.Flow) uint64 { return t.t.Hash((*shtab.Key)(f)) }

// Touch starts to load what Lookup will need. See shtab.Table.Touch.
func (t *Table) Touch(hash uint64) uint32 { return t.t.Touch(hash) }

// Lookup finds the connection of a flow from the client
// (ip_vs_conn.c, ip_vs_conn_in_get).
func (t *Table) Lookup(f *packet.Flow, hash uint64) (ID, bool) {
	i, ok := t.t.Lookup((*shtab.Key)(f), hash)
	return ID(i), ok
}

// Insert makes a connection to real server dest (1 to MaxDest), in state NONE
// and inactive, which expires in three seconds unless a packet is told of
// (ip_vs_conn.c, ip_vs_conn_new). template is kept for the owner, 0 is none, and
// so are the owner's bits, 0 to 15. The flow must have no connection that is not
// hidden. The error is ErrFull.
func (t *Table) Insert(f *packet.Flow, hash uint64, dest, template, now uint32, owner uint8) (ID, error) {
	i, err := t.t.Insert((*shtab.Key)(f), hash, uint64(dest), now, uint32(owner&0xf)<<ownerShift)
	if err != nil {
		return 0, err
	}
	r := &t.recs[i]
	r.timeout = 3 * t.hz
	r.template = template
	t.wheel.Set(i, now+r.timeout)
	return ID(i), nil
}

// Hide keeps a connection, with all it counts for, and has Lookup not find it:
// its flow may have another.
func (t *Table) Hide(id ID) { t.t.Detach(uint32(id)) }

// Remove ends a connection at once, without Expired.
func (t *Table) Remove(id ID) {
	t.wheel.Unset(uint32(id))
	t.t.Remove(uint32(id))
	t.t.Release(uint32(id))
}

// Advance moves the clock to tick now and expires what is due. It looks at no
// more than budget entries, and reports true when there are more to do.
func (t *Table) Advance(now uint32, budget int) (more bool) { return t.wheel.Advance(now, budget) }

// fire is the wheel's call when a timer has run out.
func (t *Table) fire(i uint32) {
	now := t.wheel.Now()
	stamp, timeout := t.t.Stamp(i), t.recs[i].timeout
	// A stamp may lie ahead of a wheel that has fallen behind.
	if int32(now-stamp) < int32(timeout) {
		t.wheel.Set(i, stamp+timeout)
		return
	}
	t.expired(ID(i))
	t.t.Remove(i)
	t.t.Release(i)
}

// setTimeout gives a connection the timeout that its state asks for. The timer
// has to move only if it would fire too late.
func (t *Table) setTimeout(i, timeout, now uint32) {
	r := &t.recs[i]
	r.timeout = timeout
	if due, ok := t.wheel.Due(i); !ok || int32(due-(now+timeout)) > 0 {
		t.wheel.Set(i, now+timeout)
	}
}

// Flow is the connection's flow, from the client to the virtual service.
func (t *Table) Flow(id ID) *packet.Flow { return (*packet.Flow)(t.t.Key(uint32(id))) }

// Dest is the number of the connection's real server.
func (t *Table) Dest(id ID) uint32 { return uint32(t.t.Value(uint32(id))) }

// Template is what Insert was given.
func (t *Table) Template(id ID) uint32 { return t.recs[id].template }

// Active reports whether the connection counts as active, not as inactive.
func (t *Table) Active(id ID) bool { return t.t.State(uint32(id))&flagActive != 0 }

// Owner is the owner's bits that Insert was given.
func (t *Table) Owner(id ID) uint8 { return uint8(t.t.State(uint32(id))>>ownerShift) & 0xf }

// Packets is how many packets the connection has had.
func (t *Table) Packets(id ID) uint32 { return t.t.Count(uint32(id)) }

// Idle is how many ticks ago the connection's last packet came.
func (t *Table) Idle(id ID, now uint32) uint32 { return now - t.t.Stamp(uint32(id)) }

// Slots is how many slots there are, and Live whether one holds a connection:
// for looking at some at random.
func (t *Table) Slots() int      { return t.t.Slots() }
func (t *Table) Live(id ID) bool { return t.t.Valid(uint32(id)) }

// Expires is how long the connection has to live if no packet comes.
func (t *Table) Expires(id ID, now uint32) time.Duration {
	i := uint32(id)
	left := int32(t.t.Stamp(i) + t.recs[i].timeout - now)
	return time.Duration(max(left, 0)) * time.Second / time.Duration(t.hz)
}

// Each calls yield for the connections in slots from on, and looks at no more
// than budget slots. It returns where to go on, and false when it came to the
// end. Connections that come and go between two calls may be missed.
func (t *Table) Each(from ID, budget int, yield func(ID)) (next ID, more bool) {
	end := min(int(from)+budget, t.t.Slots())
	for i := uint32(from); i < uint32(end); i++ {
		if t.t.Valid(i) {
			yield(ID(i))
		}
	}
	return ID(end), end < t.t.Slots()
}
