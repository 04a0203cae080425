package xdp

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
)

type server struct {
	ifindex uint32
	mtu     uint32
	macs    [3]uint32
	limit   uint32
	// quiescent is 1 or 0.
	quiescent uint32
	redirect  uint32
}

type count struct{ packets, bytes uint64 }

type settings struct {
	expected  uint32
	heartbeat uint32
	opening   uint32
	template  uint32
	changing  uint32
	untold    uint32
	unclaimed uint32
	_         [9]uint32
	locals    dataplane.LocalFilter
}

// rule is a step of a list.
type rule struct{ field, mask, low, span, yes, no, and, xor uint32 }

func (s *settings) beat(tick uint32) { atomic.StoreUint32(&s.heartbeat, tick) }

// setGeneration publishes the generation of timeouts that connections must have,
// besides having had a packet and being of direct routing, which is 0.
func (s *settings) setGeneration(gen uint32) {
	atomic.StoreUint32(&s.expected, conn.SetFlag|gen<<conn.GenShift)
}

// setUnclaimed publishes of which families packets that no claim is for are Go's.
func (s *settings) setUnclaimed(families uint32) { atomic.StoreUint32(&s.unclaimed, families) }

var (
	_ = [1]struct{}{}[unsafe.Sizeof(server{})-program.ServerSize]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.ifindex)-program.ServerIfindex]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.mtu)-program.ServerMTU]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.macs)-program.ServerMACs]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.limit)-program.ServerLimit]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.quiescent)-program.ServerQuiescent]
	_ = [1]struct{}{}[unsafe.Offsetof(server{}.redirect)-program.ServerRedirect]
	_ = [1]struct{}{}[unsafe.Sizeof(count{})-program.CountSize]
	_ = [1]struct{}{}[unsafe.Sizeof(settings{})-program.SettingsSize]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.heartbeat)-program.SettingsHeartbeat]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.opening)-program.SettingsOpening]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.template)-program.SettingsTemplates]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.changing)-program.SettingsChanging]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.untold)-program.SettingsUntold]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.unclaimed)-program.SettingsUnclaimed]
	_ = [1]struct{}{}[unsafe.Offsetof(settings{}.locals)-program.SettingsLocals]
	_ = [1]struct{}{}[unsafe.Sizeof(rule{})-program.RuleSize]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.field)-program.RuleField]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.mask)-program.RuleMask]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.low)-program.RuleLow]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.span)-program.RuleSpan]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.yes)-program.RuleYes]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.no)-program.RuleNo]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.and)-program.RuleAnd]
	_ = [1]struct{}{}[unsafe.Offsetof(rule{}.xor)-program.RuleXor]
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
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&s.macs)),
		uint64(binary.LittleEndian.Uint32(b[:]))|uint64(binary.LittleEndian.Uint32(b[4:]))<<32)
	atomic.StoreUint32(&s.macs[2], binary.LittleEndian.Uint32(b[8:]))
	atomic.StoreUint32(&s.ifindex, uint32(to.Ifindex))
	atomic.StoreUint32(&s.mtu, uint32(to.MTU))
}

func (c *count) load() (packets, bytes uint64) {
	return atomic.LoadUint64(&c.packets), atomic.LoadUint64(&c.bytes)
}
