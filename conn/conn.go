// Package conn is the connection table: which real server a connection was
// given, in what state it is, and when it is forgotten.
//
// Entries lie in a shared table (internal/shtab by way of internal/expiring), so
// that an XDP program can forward them, stamp and count them.
// What only Go needs (the timer, the timeout, the template) lies in a record of
// the same index.
package conn

import (
	"errors"
	"fmt"
	"time"

	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/shtab"
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
	// Memory is the shared memory to use, MemorySize(Max) bytes, and Records what
	// Go alone uses, RecordsSize(Max) bytes. They are zero, or with Adopt hold what
	// a process before this one left there. nil is anonymous memory.
	Memory, Records []byte
	Adopt           bool
	// Quarantine keeps the slots of connections that ended until Free: an XDP
	// program reads Memory too.
	Quarantine bool
	// Expired is called for each connection whose time is over, just before
	// its entry goes. It must not change the table. Required.
	Expired func(ID)
	// Ahead, if it is not nil, is called for some connections before the first of
	// them ends, to read what Expired will need: that is loaded for all of them at
	// the same time. What it returns means nothing.
	Prefetch func(ID) uint32
}

// MemorySize is how many bytes of shared memory a table for max connections
// has, and RecordsSize the same of the records beside it.
func MemorySize(max int) int  { return shtab.Size(max) }
func RecordsSize(max int) int { return expiring.RecordsSize[record](max) }

// record is what Go alone keeps of a connection, besides its timer: together 20
// bytes.
type record struct {
	template uint32 // the owner's word for it; 0: none
}

// Table is a connection table. Make it with New. It is not safe for concurrent
// use: the director's forwarding lock guards it.
type Table struct {
	t        *expiring.Table[record]
	timeouts timeouts
	secure   bool
	expired  func(ID)
}

// New makes an empty table, or takes one over.
func New(o Options) (*Table, error) {
	if o.Expired == nil {
		return nil, errors.New("conn: Options need Expired")
	}
	t := &Table{expired: o.Expired, timeouts: defaultTimeouts(o.Hz)}
	var err error
	x := expiring.Options{
		Max: o.Max, Hz: o.Hz, Now: o.Now, Memory: o.Memory, Records: o.Records, Adopt: o.Adopt, Quarantine: o.Quarantine,
	}
	if o.Prefetch != nil {
		x.Prefetch = func(i uint32) uint32 { return o.Prefetch(ID(i)) }
	}
	t.t, err = expiring.New[record](x, t.onExpire)
	if err != nil {
		return nil, fmt.Errorf("conn: %w", err)
	}
	if o.Adopt {
		t.endEmbryos()
	}
	return t, nil
}

// endEmbryos ends what was made and has had no packet: whoever made it was
// interrupted, and the record may be another's still.
func (t *Table) endEmbryos() {
	for i := range uint32(t.t.Slots()) {
		if state := t.t.State(i); t.t.Live(i) && !t.recordSet(state) {
			t.t.End(i)
		}
	}
}

// Populate has all memory of the table's own be there, before the first connection: else
// the first ones each wait for some.
func (t *Table) Populate() { t.t.Populate() }

// Close gives back the memory that New took. The table is gone then.
func (t *Table) Close() { t.t.Close() }

// Len is how many connections there are, Max how many there can be.
func (t *Table) Len() int { return t.t.Len() }

// Max is the most connections that the table can hold.
func (t *Table) Max() int { return t.t.Max() }

// Hash is the hash of a flow, for Touch, Lookup and Insert.
func (t *Table) Hash(f *packet.Flow) uint64 { return t.t.Hash((*shtab.Key)(f)) }

// Touch starts to load what Lookup will need, and TouchNew what Insert will, too. See
// shtab.Table.Touch.
func (t *Table) Touch(hash uint64) uint32    { return t.t.Touch(hash) }
func (t *Table) TouchNew(hash uint64) uint32 { return t.t.TouchNew(hash) }

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
	t.t.Owner(i).template = template
	t.t.Arm(i, t.t.Ticks(3*time.Second), now)
	return ID(i), nil
}

// InsertSYN is Insert, and TCP with the SYN that opens the connection.
func (t *Table) InsertSYN(f *packet.Flow, hash uint64, dest, template, now uint32, owner uint8) (ID, Change, error) {
	kept := uint32(owner&0xf) << ownerShift
	i, err := t.t.Insert((*shtab.Key)(f), hash, uint64(dest), now, kept)
	if err != nil {
		return 0, Change{}, err
	}
	to := uint32(tcpSynRecv)
	if t.secure {
		to = tcpSynAck
	}
	t.t.SetCount(i, 1)
	c := Change{Activated: tcpActive>>to&1 != 0}
	t.open(i, template, t.timeouts.tcp[to], kept|to, c)
	return ID(i), c, nil
}

// Hide keeps a connection, with all it counts for, and has Lookup not find it:
// its flow may have another.
func (t *Table) Hide(id ID) { t.t.Detach(uint32(id)) }

// Remove ends a connection at once, without Expired.
func (t *Table) Remove(id ID) { t.t.End(uint32(id)) }

// Retired takes the slots that are in quarantine, and Free gives them back once
// no program can still act on what was in them.
func (t *Table) Retired() []uint32   { return t.t.Retired() }
func (t *Table) Free(slots []uint32) { t.t.Free(slots) }

// Advance moves the clock to tick now and expires what is due. It looks at no
// more than budget entries, and reports true when there are more to do.
func (t *Table) Advance(now uint32, budget int) (more bool) { return t.t.Advance(now, budget) }

// onExpire ends a connection whose time is over.
func (t *Table) onExpire(i uint32) {
	t.expired(ID(i))
	t.t.End(i)
}

// Flow is the connection's flow, from the client to the virtual service.
func (t *Table) Flow(id ID) *packet.Flow { return (*packet.Flow)(t.t.Key(uint32(id))) }

// Orphan takes a connection's template away, if that is gone.
func (t *Table) Orphan(id ID) { t.t.Owner(uint32(id)).template = 0 }

// Dest is the number of the connection's real server.
func (t *Table) Dest(id ID) uint32 { return uint32(t.t.Value(uint32(id))) }

// Template is what Insert was given.
func (t *Table) Template(id ID) uint32 { return t.t.Owner(uint32(id)).template }

// Active reports whether the connection counts as active, not as inactive.
func (t *Table) Active(id ID) bool { return t.t.State(uint32(id))&flagActive != 0 }

// Owner is the owner's bits that Insert was given.
func (t *Table) Owner(id ID) uint8 { return uint8(t.t.State(uint32(id))>>ownerShift) & 0xf }

// Packets is how many packets the connection has had.
func (t *Table) Packets(id ID) uint32 { return t.t.Count(uint32(id)) }

// Idle is how many ticks ago the connection's last packet came.
func (t *Table) Idle(id ID, now uint32) uint32 { return now - t.t.Stamp(uint32(id)) }

// Slots is how many slots there are, and Live whether one holds a connection that is
// not Pending: for looking at some at random.
func (t *Table) Slots() int      { return t.t.Slots() }
func (t *Table) Live(id ID) bool { return t.t.Live(uint32(id)) }

// Expires is how long the connection has to live if no packet comes.
func (t *Table) Expires(id ID, now uint32) time.Duration { return t.t.Expires(uint32(id), now) }

// Each calls yield for the connections in slots from on, and looks at no more
// than budget slots. It returns where to go on, and false when it came to the
// end. Connections that come and go between two calls may be missed, and those that
// are Pending are; yield may remove the one that it is called for.
func (t *Table) Each(from ID, budget int, yield func(ID)) (next ID, more bool) {
	n, more := t.t.Each(uint32(from), budget, func(i uint32) { yield(ID(i)) })
	return ID(n), more
}
