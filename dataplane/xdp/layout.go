package xdp

import (
	"sync/atomic"
	"unsafe"

	"github.com/ulvs/ulvs/dataplane"
)

// An element of the array of servers, by a real server's number. Element 0 is no
// server's.
//
//	 0  ifindex     4  out of which the server is reached; 0: not known
//	 4  MTU         4
//	 8  MACs       12  the server's, then the interface's: as at the frame's start
//	20  generation  4  of the timeouts, the same in all
//	24  zero        8
const (
	serverSize       = 32
	serverIfindex    = 0
	serverMTU        = 4
	serverMACs       = 8
	serverGeneration = 20
)

type server struct {
	ifindex    uint32
	mtu        uint32
	macs       [3]uint32
	generation uint32
	_          [2]uint32
}

// An element of the array of counters: each CPU has a room for every server, and
// the rooms of two CPUs share no cache line.
const countSize = 16

type count struct{ packets, bytes uint64 }

var (
	_ = [1]struct{}{}[unsafe.Sizeof(server{})-serverSize]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.ifindex)-serverIfindex]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.mtu)-serverMTU]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.macs)-serverMACs]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.generation)-serverGeneration]
	_ = [1]struct{}{}[unsafe.Sizeof(count{})-countSize]
)

// elements lays a slice over an array's memory.
func elements[E any](memory []byte, n int) []E {
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(memory))), n)
}

// set publishes where a server is. The program reads the interface first, and the
// server's address with the first two bytes of the other as one word: no frame
// goes to half an address.
func (s *server) set(to dataplane.Server) {
	atomic.StoreUint32(&s.ifindex, 0)
	if !to.Reachable {
		return
	}
	var b [12]byte
	copy(b[:], to.Dst[:])
	copy(b[6:], to.Src[:])
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&s.macs)), uint64(le32(b[:]))|uint64(le32(b[4:]))<<32)
	atomic.StoreUint32(&s.macs[2], le32(b[8:]))
	atomic.StoreUint32(&s.mtu, uint32(to.MTU))
	atomic.StoreUint32(&s.ifindex, uint32(to.Ifindex))
}

func (s *server) setGeneration(gen uint32) { atomic.StoreUint32(&s.generation, gen) }

func (c *count) load() (packets, bytes uint64) {
	return atomic.LoadUint64(&c.packets), atomic.LoadUint64(&c.bytes)
}
