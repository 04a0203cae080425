// Package conn is the connection table: which real server a connection was
// given, in what state it is, and when it is forgotten. It is for packages forward and
// dataplane/xdp, and not covered by compatibility.
//
// Entries lie in a shared table (internal/shtab by way of internal/expiring), so
// that an XDP program can forward them, stamp and count them.
// What only Go needs (the timer, the timeout, the template) lies in a record of
// the same index.
package conn

import (
	"errors"
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
	// Prefetch, if it is not nil, is called for some connections before the first of
	// them ends, to read what Expired will need: that is loaded for all of them at
	// the same time. What it returns means nothing.
	Prefetch func(ID) uint32
	// Changed, if it is not nil, is called for a connection whose time is over as far as Go
	// knows, if a program has changed its state: it has to call AcceptState.
	Changed func(ID)
	// Answered, if it is not nil, is told of the template of a connection, not 0, that is found
	// to have been answered: of those without states it is not seen when that happens.
	Answered func(template uint32)
}

// MemorySize returns how many bytes of shared memory a table for max connections
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
	states
	expired func(ID)
}

// New makes an empty table, or adopts one.
func New(o Options) (*Table, error) {
	if o.Expired == nil {
		return nil, errors.New("conn.Options need Expired")
	}
	t := &Table{expired: o.Expired,
		states: states{answered: o.Answered, timeouts: defaultTimeouts(o.Hz), programs: o.Quarantine}}
	t.before = t.timeouts
	var err error
	t.Table, err = expiring.New[ID, record](expiring.Options[ID]{
		Max: o.Max, Hz: o.Hz, Now: o.Now, Memory: o.Memory, Records: o.Records, Adopt: o.Adopt,
		Quarantine: o.Quarantine, Prefetch: o.Prefetch,
	}, func(id ID) { // End's body: this is done for each connection
		if t.Changed(id) && o.Changed != nil { // it may have another timeout
			o.Changed(id)
			return
		}
		t.expired(id)
		t.halfOpen.ended(t.State(id))
		t.Table.End(id)
	})
	if err != nil {
		return nil, err
	}
	if t.halfOpen, err = newHalfOpen(o.Max); err != nil {
		t.Table.Close()
		return nil, err
	}
	if o.Adopt {
		t.endEmbryos()
		rearrive(t)
	}
	return t, nil
}

// Close gives back the memory that New took. The table is gone then.
func (t *Table) Close() {
	t.Table.Close()
	t.halfOpen.free()
}

// endEmbryos ends what was inserted and has had no packet: the process was
// interrupted, and the record may be another's still.
func (t *Table) endEmbryos() {
	for id := range ID(t.Slots()) {
		if state := t.State(id); t.Live(id) && !t.recordSet(state) {
			t.Table.End(id) // which is not counted yet
		}
	}
}

// Hash returns the hash of a flow, for Touch, Lookup and Insert.
func (t *Table) Hash(f *packet.Flow) uint64 { return t.Table.Hash((*shtab.Key)(f)) }

// Lookup finds the connection of a flow from the client
// (ip_vs_conn.c, ip_vs_conn_in_get).
func (t *Table) Lookup(f *packet.Flow, hash uint64) (ID, bool) {
	return t.Table.Lookup((*shtab.Key)(f), hash)
}

// Insert makes a connection to real server dest (1 to MaxDest), in state NONE
// and inactive, which expires in three seconds unless a packet is counted
// (ip_vs_conn.c, ip_vs_conn_new). template is kept for the owner, 0 is none, and
// so are the owner's bits, 0 to 15. The flow must have no connection that is not
// hidden. The error is ErrFull.
func (t *Table) Insert(f *packet.Flow, hash uint64, dest, template, now uint32, owner uint8) (ID, error) {
	state := uint32(owner&0xf)<<ownerShift | flagHalfOpen | t.crossing
	id, err := t.Table.Insert((*shtab.Key)(f), hash, valueOf(dest, template), now, state)
	if err != nil {
		return 0, err
	}
	t.Record(id).template = template
	t.halfOpen.arrive(id, now)
	t.Arm(id, t.Ticks(3*time.Second), now)
	return id, nil
}

// InsertSYN does what Insert does, and TCP with the SYN that opens the connection.
func (t *Table) InsertSYN(f *packet.Flow, hash uint64, dest, template, now uint32, owner uint8) (ID, Change, error) {
	kept := uint32(owner&0xf) << ownerShift
	id, err := t.Table.Insert((*shtab.Key)(f), hash, valueOf(dest, template), now, kept)
	if err != nil {
		return 0, Change{}, err
	}
	to := uint32(tcpSynRecv)
	if t.secure {
		to = tcpSynAck
	}
	t.SetPackets(id, 1)
	c := Change{Activated: tcpActive>>to&1 != 0}
	t.open(id, template, t.timeouts.tcp[to], kept|to, now, c)
	return id, c, nil
}

// valueOf is an entry's value: what programs have to know of it, which tells them whether there is
// a template.
func valueOf(dest, template uint32) uint64 {
	return uint64(dest) | uint64(min(template, MaxNamed))<<TemplateShift
}

// Flow returns the connection's flow, from the client to the virtual service.
func (t *states) Flow(id ID) *packet.Flow { return (*packet.Flow)(t.Key(id)) }

// Orphan takes a connection's template away, if that is gone.
func (t *Table) Orphan(id ID) {
	t.Record(id).template = 0
	t.Rename(id, 0)
}

// Rename has a connection name a template, or none with 0, to programs.
func (t *Table) Rename(id ID, template uint32) { t.SetValue(id, valueOf(t.Dest(id), template)) }

// End removes a connection, and frees its slot at once, or in quarantine.
func (t *Table) End(id ID) {
	t.halfOpen.ended(t.State(id))
	t.Table.End(id)
}

// Hide keeps a connection, with all it counts for, and has Lookup not find it: its flow may
// have another. Who hides it ends it.
func (t *Table) Hide(id ID) {
	t.answer(id)
	t.Table.Hide(id)
}

// Dest returns the number of the connection's real server.
func (t *Table) Dest(id ID) uint32 { return uint32(t.Value(id)) & MaxDest }

// Named returns the template by which a program says that it has opened the connection, or 0.
func (t *Table) Named(id ID) uint32 { return uint32(t.Value(id) >> TemplateShift) }

// Template returns what Insert was given.
func (t *states) Template(id ID) uint32 { return t.Record(id).template }

// Active reports whether the connection counts as active, not as inactive.
func (t *Table) Active(id ID) bool { return t.State(id)&flagActive != 0 }

// Owner returns the owner's bits that Insert was given.
func (t *Table) Owner(id ID) uint8 { return uint8(t.State(id)>>ownerShift) & 0xf }

// open gives a new entry its record and its state, from the time in its stamp on.
func (t *Table) open(id ID, template, timeout, state, now uint32, c Change) {
	state |= t.timeouts.gen<<genShift | flagSet | flagHalfOpen
	if c.Activated {
		state |= flagActive
	}
	t.Record(id).template = template
	t.halfOpen.arrive(id, now)
	t.ArmFromStamp(id, timeout)
	t.SetState(id, state)
}

// Secure reports what SetSecure said.
func (t *states) Secure() bool { return t.secure }
