package xdp

import (
	"sync/atomic"
	"unsafe"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
)

// An element of the array of servers, by a real server's number. Element 0 is no
// server's.
//
//	 0  ifindex     4  out of which the server is reached
//	 4  MTU         4  0: the way is not known
//	 8  MACs       12  the server's, then the interface's: as at the frame's start
//	20  zero       12
const (
	serverSize    = 1 << serverShift
	serverShift   = 5
	serverIfindex = 0
	serverMTU     = 4
	serverMACs    = 8
)

type server struct {
	ifindex uint32
	mtu     uint32
	macs    [3]uint32
	_       [3]uint32
}

// An element of the array of counters: each CPU has a room for every server, and
// the rooms of two CPUs share no cache line.
const (
	countSize  = 1 << countShift
	countShift = 4
)

type count struct{ packets, bytes uint64 }

// What the program looks up of its configuration.
//
//	 0  expected    4  what an entry's state word has, of what forwarding asks for
//	 4  attended    4  when a daemon showed itself last, in ticks
//	 8  making      4  families (a bit each, see makingBit) that connections may be made of
//	12  templates   4  1: templates may be made, too
//	64  locals   4096  a bit for the fold of each of the host's own addresses, by family
const (
	settingsSize      = settingsLocals + 2*localsSize
	settingsExpected  = 0
	settingsAttended  = 4
	settingsMaking    = 8
	settingsTemplates = 12
	settingsLocals    = 64

	localsSize = dataplane.LocalBits / 8 // a family's
)

type settings struct {
	expected uint32
	attended uint32
	making   uint32
	template uint32
	_        [12]uint32
	locals   dataplane.LocalFilter
}

func (s *settings) attend(tick uint32) { atomic.StoreUint32(&s.attended, tick) }

// setGeneration publishes the generation of timeouts that connections must have,
// besides having had a packet and being of direct routing, which is 0.
func (s *settings) setGeneration(gen uint32) {
	atomic.StoreUint32(&s.expected, conn.SetFlag|gen<<conn.GenShift)
}

var (
	_ = [1]struct{}{}[unsafe.Sizeof(server{})-serverSize]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.ifindex)-serverIfindex]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.mtu)-serverMTU]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.macs)-serverMACs]
	_ = [1]struct{}{}[unsafe.Sizeof(count{})-countSize]
	_ = [1]struct{}{}[unsafe.Sizeof(settings{})-settingsSize]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.attended)-settingsAttended]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.making)-settingsMaking]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.template)-settingsTemplates]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.locals)-settingsLocals]
)

// elements lays a slice over an array's memory.
func elements[E any](memory []byte, n int) []E {
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(memory))), n)
}

// set publishes where a server is. The program reads the MTU first, and the
// server's address with the first two bytes of the other as one word: no frame
// goes to half an address.
func (s *server) set(to accel.Server) {
	atomic.StoreUint32(&s.mtu, 0)
	if !to.Reachable {
		return
	}
	var b [12]byte
	copy(b[:], to.Dst[:])
	copy(b[6:], to.Src[:])
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&s.macs)), uint64(le32(b[:]))|uint64(le32(b[4:]))<<32)
	atomic.StoreUint32(&s.macs[2], le32(b[8:]))
	atomic.StoreUint32(&s.ifindex, uint32(to.Ifindex))
	atomic.StoreUint32(&s.mtu, uint32(to.MTU))
}

func (c *count) load() (packets, bytes uint64) {
	return atomic.LoadUint64(&c.packets), atomic.LoadUint64(&c.bytes)
}
