// Package accel is the border between the director and a plane that forwards packets of
// connections, and opens connections, without Go: what memory they share, and what each
// tells the other. It is internal, as it names the layouts of internal tables.
package accel

import (
	"errors"

	"github.com/ulvs/ulvs/dataplane"
)

// ErrKept says that what an earlier process left cannot be used; a plane without it can.
var ErrKept = errors.New("what an earlier daemon left behind cannot be used")

// Misfit is an ErrKept of memory that is not for this process, and why.
type Misfit struct{ Why error }

// Error says that it cannot be used, and why.
func (m *Misfit) Error() string { return ErrKept.Error() + ": " + m.Why.Error() }

// Unwrap returns ErrKept and why.
func (m *Misfit) Unwrap() []error { return []error{ErrKept, m.Why} }

// Accelerator is a Plane that forwards packets of connections by itself, where
// the table that the director keeps of them lies in memory that the plane has.
// It hands the director only what may change something: packets without a
// connection and, if it is no Opener, those that move their connection to another state.
//
// The director's table is internal/shtab's and its entries are package conn's;
// their layout packages say what is where.
type Accelerator interface {
	dataplane.Plane
	// Memory gives each part its Block, from the start of a page on. The first is
	// for the connection table. The memory is zero; or, with kept, it is what an
	// earlier process left in parts of these names and sizes. It is called once,
	// before all else.
	Memory(parts []Part) (kept bool, err error)
	// Replace gives the journal other memory, of size bytes: zero, until fill has written
	// what is to be in it. Another process finds the old or, once Replace has returned, the
	// new memory, whenever this one is killed. The old Block must not be used any more then.
	// An error leaves everything as it was.
	Replace(journal string, size int, fill func(block []byte) error) error
	// Accelerate starts to forward. The table is laid over the first part.
	Accelerate(Acceleration) error
	// SetGeneration says that connections of another generation of timeouts are
	// to be handed over.
	SetGeneration(gen uint32)
	// Heartbeat says that somebody does what the plane leaves undone, at a tick of
	// Acceleration.Hz. Two seconds after the last call, it forwards packets too
	// that would change their connection's state, which it cannot.
	Heartbeat(tick uint32)
	// SetContents says how many services and connections lie in the memory, so that a
	// process that cannot go on with them can say what it would throw away.
	SetContents(services, connections int)
	// SetServer says where packets for a real server go, by the number that
	// entries have of it; the zero Server has them handed over. False: there is
	// no room for that number, and its packets are always handed over.
	SetServer(id uint32, s Server) bool
	// Grace returns when nobody can still act on what the table's memory held
	// when it was called. It takes some milliseconds.
	Grace() error
	// Served is what was forwarded to a real server since the memory was made.
	Served(id uint32) Served
	// Release gives back the memory, but for what is kept for another process. Nothing
	// may use a Block after it. Without a Memory that succeeded, or a second time, it does
	// nothing.
	Release()
}

// Served counts what a plane has forwarded by itself to a real server. Conns are packets that were a
// connection each.
type Served struct{ Packets, Bytes, Conns uint64 }

// Opener is an Accelerator that also opens connections by itself, where the director
// has picked (internal/preselect), changes the states of TCP and SCTP (package conn), and tells both
// in rings (internal/shtab, Rings).
type Opener interface {
	Accelerator
	// Rings is the memory of the connections' and of the templates' rings, closed, and
	// for how many CPUs. It is there after Memory.
	Rings() (conns, templates []byte, cpus int)
	// Servers returns how many real servers there is room for, by number, up to Counted: to others
	// nothing is opened, nor forwarded. It is known after Memory.
	Servers() int
	// SetOpening says what may be made now. Nothing may before it is called, and no state be
	// changed.
	SetOpening(Opening)
	// SetLimits says that a real server, by its number, may not be chosen for the connection with
	// which it has limit, nor for one more (ip_vs_conn.c, ip_vs_bind_dest); 1: for none; 0: there
	// is no limit. To a quiescent one no template leads (ip_vs_conn.c, ip_vs_check_template).
	SetLimits(id, limit uint32, quiescent bool)
	// SetLocals says which source addresses are the director's to judge: the host's
	// own. False: they cannot be told apart, and nothing may be opened.
	SetLocals(l *dataplane.Locals) (ipv4, ipv6 bool)
}

// Crosser is an Opener whose programs count what they hand to the director, so that no packet of a connection
// overtakes another one when the connection passes from Go to a program (package conn, crossing.go).
type Crosser interface {
	Opener
	// Crossings are the counts, 1<<CrossingBits, or none. They are there after Memory, and as long as the
	// process.
	Crossings() []Crossing
	// Lost is how many packets that it was to hand over the plane has lost so far, as more came than the
	// director took.
	Lost() uint64
}

// Opening is what an Opener may open: connections of a family, and templates too; of SloppyTCP and
// SloppySCTP by packets too that are no SYN or INIT (the sysctls of these names). Untold are the
// states of which it need not tell (package conn). Compared is how many real servers it is to
// compare where a service has so many (preselect.ByCounts); until it can, those are the director's. With
// Losing, first packets wait for none of their flow that the director may have (Crosser).
type Opening struct {
	IPv4, IPv6, Templates bool
	Losing                bool
	SloppyTCP, SloppySCTP bool
	Untold                uint32
	Compared              int
}

// Layout numbers the layout of everything that outlives a process: the shared tables
// (internal/shtab) and their records (conn, persist), what is kept beside them (forward,
// kept), picks (internal/preselect), the arrays of planes, and the journal's records
// (director). Whatever of that changes, it changes, so that a daemon does not misread what
// another one left. Names of parts are names of pins, and stay.
const Layout = 9

// Names of parts that planes look into themselves.
const (
	PartConns     = "conns"
	PartTemplates = "templates"
	PartServices  = "services"
	PartSequences = "sequences"
	PartCounts    = "conn-counts"
	PartJournal   = "journal"
)

// Counted is how many real servers, by number, have their connections counted in PartCounts: a
// word each (sched.Dest.Share). Those of others, programs neither open nor change. Behind these
// words is one for each in which programs count the packets that were a connection each. There
// are two for each service of which programs open connections (preselect.Services).
const Counted = 1 << 17

// ActiveConn and InactiveConn are what such a word has for a connection (package sched's).
const (
	ActiveConn   = 1 << 32
	InactiveConn = 1
)

// Part is a block of memory that may outlive the process.
type Part struct {
	Name  string
	Size  int // bytes
	Block []byte
	// Journal marks memory that is of use to another process alone: Block is nil where the
	// plane keeps nothing for one. It may have been replaced, and is larger than Size then.
	Journal bool
}

// Acceleration is what a plane needs to find a packet's connection.
type Acceleration struct {
	// Seed, Homes and Slots are the connection table's, and Templates the same of
	// the template table.
	TableShape
	Templates TableShape
	// Hz is how many ticks of CLOCK_MONOTONIC a second has in an entry's stamp.
	Hz uint32
}

// TableShape is what the slot of a key is found by (internal/shtab).
type TableShape struct {
	Seed         [6]uint64
	Homes, Slots uint32
}

// Server is a real server as an Accelerator needs it. The zero value is one
// that packets do not go to.
type Server struct {
	Reachable bool
	Dst, Src  dataplane.MAC
	Ifindex   int
	MTU       int // bytes from the IP header on
}
