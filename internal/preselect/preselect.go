// Package preselect is what a director decides before packets come, for programs that
// open connections by themselves: for each virtual service whether they may, by which
// bits of a flow its connection templates are found, and its scheduler's next picks.
// All of it lies in memory that programs read and that outlives the process.
//
// Where a scheduler comes back to where it stood after not too many picks, they are a cycle, which
// does not end: whoever takes one moves on the number of the last, by compare and swap. Otherwise
// the picks are a ring. Where it stands is one word, the number of the next pick and that of the
// first which is not there yet. Whoever takes a choice reads it and then moves the word on: the
// choice was the next one if that succeeds, as none is overwritten before it was taken. The owner
// adds behind, and ends the ring in the same way: picks that nobody took are void. The last
// choice that was taken stays where it is, so that the memory itself says where the
// scheduler stands.
package preselect

import (
	"sync/atomic"

	"github.com/ulvs/ulvs/internal/shtab"
)

// Claim is what programs find a service by: the address (an IPv4 address first, then
// zeros), the port in network byte order, or 0 for every port, the protocol, and the
// family, 4 or 6. A service by a mark has that in the place of an address, and neither port nor
// protocol. Found is what they find: the service's number and its serial, or a list of rules
// (FirstList), beside which Else is the number and Serial the serial.
type Claim [20]byte

// Found is explained at Claim.
type Found struct{ Number, Serial, Else uint32 }

// FirstList is the number of the list of rules that is the first in memory. That of another one is
// as much more as it lies behind that, in bytes.
const FirstList = 1 << 30

// Form is by what a flow's connection template is found: the bits of the flow that are kept,
// and what is put to them, in word PutWord of its family.
type Form struct {
	Keep [5]uint64
	Put  uint64
}

// PutWord returns the word of a flow with what a firewall mark takes the place of.
func PutWord(six bool) int {
	if six {
		return 3
	}
	return 0
}

// What programs may open connections by: ByPicks or ByHash, ByTemplate, or both ways.
const (
	// ByPicks: by the next choice; with ByTemplate, if the client has no template, and
	// then with a template for it.
	ByPicks = 1
	// ByTemplate: by the client's template. The service is persistent.
	ByTemplate = 2
	// ByHash: by a bucket, in the place of a choice, which is that of the client's address
	// or, with OfVirtual, of the virtual one; WithPort adds the client's port; BySip is mh's
	// hash (sched.Hash).
	ByHash    = 4
	OfVirtual = 8
	WithPort  = 16
	BySip     = 32
	// ByCounts: by the connections that the real servers have (sched.Comparing), of those that
	// SetServers has written: the first of those whose load is least for its weight. The load is
	// 256 times the active connections and the inactive ones; with Soonest it is the active ones
	// and 1, with IdleFirst as well if there is none without. With Unfilled it is the first whose
	// active connections are no more than its weight.
	ByCounts  = 64
	Soonest   = 128
	IdleFirst = 256
	Unfilled  = 512
	// OnePacket: each UDP packet for itself, without a connection (ipvsadm -o).
	OnePacket = 1024
)

// Pick is one of a scheduler's: the number of a real server, and what else the
// scheduler knows after it (sched.Positioned).
type Pick struct {
	Dest    uint32
	Current int32
}

func (c Pick) pack() uint64    { return uint64(c.Dest)<<32 | uint64(uint32(c.Current)) }
func unpackPick(v uint64) Pick { return Pick{uint32(v >> 32), int32(uint32(v))} }

// Service is what is decided for one service. Its methods are the owner's, one
// goroutine's at a time, beside any programs.
type Service struct {
	position uint64 // the first choice that is not there yet 32 | the next choice 32
	serial   uint32
	by       uint32
	version  uint32
	length   uint32
	wrap     uint32
	_        [9]uint32
	keep     [5]uint64
	put      uint64
	_        [2]uint64
	picks    [Picks]uint64
}

// Over lays services over a block, which must have Size bytes, start on a cache line,
// and be zero or have had services. Nothing is changed.
func Over(block []byte) ([]Service, error) {
	list, err := shtab.RecordsOver[Service](block, Services)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Size returns how many bytes Services services take.
func Size() int { return shtab.RecordsSize[Service](Services) }

// Renew gives the number to another service, and returns its serial, which none before it
// had. Claims of those lead nowhere then. It must be closed.
func (s *Service) Renew() (serial uint32) { return atomic.AddUint32(&s.serial, 1) }

// Serial returns what the last Renew did.
func (s *Service) Serial() uint32 { return atomic.LoadUint32(&s.serial) }

// Open has programs open connections to a service: by is what by, form what its templates are
// found by, and last where its scheduler stands, which does not matter ByHash. It must be closed.
// (A program that has read the service before it was closed may put old bits and new ones
// together. It finds no template then, or one that the client had.)
func (s *Service) Open(by uint32, form Form, last Pick) {
	s.keep, s.put = form.Keep, form.Put
	if by&(ByHash|ByCounts) == 0 {
		s.SetLast(last)
	}
	atomic.AddUint32(&s.version, 1)
	atomic.StoreUint32(&s.by, by)
}

// OpenCycle does what Open does ByPicks, with a cycle: list are the picks from where the scheduler
// stands on, up to Picks-1, and on its last one follows that of number wrap.
func (s *Service) OpenCycle(by uint32, form Form, last Pick, list []Pick, wrap int) {
	s.keep, s.put = form.Keep, form.Put
	atomic.StoreUint64(&s.picks[0], last.pack())
	for i, c := range list {
		atomic.StoreUint64(&s.picks[i+1], c.pack())
	}
	atomic.StoreUint32(&s.length, uint32(len(list)+1))
	atomic.StoreUint32(&s.wrap, uint32(wrap+1))
	version := atomic.AddUint32(&s.version, 1)
	atomic.StoreUint64(&s.position, Cycle|uint64(version)<<32)
	atomic.StoreUint32(&s.by, by)
}

// SetBucket writes which real server a bucket has, 0 for none, while the service is closed: for
// ByHash. Programs that have read it see that the version has changed.
func (s *Service) SetBucket(n int, dest uint16) { s.buckets()[n] = dest }

// Weighed is a real server by its number, up to 65535, and its weight, 1 or more.
type Weighed struct {
	Dest   uint16
	Weight int32
}

// SetServers writes the real servers, 1 to MostCompared, while the service is closed: for
// ByCounts. Programs that have read them see that the version has changed.
func (s *Service) SetServers(list []Weighed) {
	for i, w := range list {
		next := (i + 1) * 8
		if i == len(list)-1 {
			next = LastCompared
		}
		s.picks[i] = uint64(w.Weight)<<32 | uint64(next)<<16 | uint64(w.Dest)
	}
}

// Close has programs open no more connections. by is what they did it by, 0 if they
// did not; with ByPicks, last is the last choice that was taken.
func (s *Service) Close() (by uint32, last Pick) {
	by = atomic.SwapUint32(&s.by, 0)
	atomic.AddUint32(&s.version, 1)
	for {
		w := atomic.LoadUint64(&s.position)
		next := w & 0xffff_ffff
		if w&Cycle != 0 {
			next++ // the first of an empty ring behind the last that was taken
		}
		if atomic.CompareAndSwapUint64(&s.position, w, next|next<<32) {
			return by, unpackPick(atomic.LoadUint64(&s.picks[uint32(next-1)%Picks]))
		}
	}
}

// SetLast writes down where the scheduler stands. No choice may be left.
func (s *Service) SetLast(last Pick) {
	at := uint32(atomic.LoadUint64(&s.position) - 1)
	atomic.StoreUint64(&s.picks[at%Picks], last.pack())
}

// Take takes the next pick, if there is one.
func (s *Service) Take() (c Pick, ok bool) {
	for {
		w := atomic.LoadUint64(&s.position)
		if w&Cycle != 0 {
			next := uint32(w) + 1
			if next >= atomic.LoadUint32(&s.length) {
				next = atomic.LoadUint32(&s.wrap)
			}
			v := atomic.LoadUint64(&s.picks[next%Picks])
			if atomic.CompareAndSwapUint64(&s.position, w, w&^0xffff_ffff|uint64(next)) {
				return unpackPick(v), true
			}
			continue
		}
		if uint32(w) == uint32(w>>32) {
			return Pick{}, false
		}
		v := atomic.LoadUint64(&s.picks[uint32(w)%Picks])
		if atomic.CompareAndSwapUint64(&s.position, w, w+1) {
			return unpackPick(v), true
		}
	}
}

// Room returns how many picks may be added.
func (s *Service) Room() int {
	w := atomic.LoadUint64(&s.position)
	return Picks - 1 - int(uint32(w>>32)-uint32(w))
}

// Add puts a choice behind those that there are and the n that were added since the
// last Publish, which lets programs have n of them. There must be Room.
func (s *Service) Add(n int, c Pick) {
	tail := uint32(atomic.LoadUint64(&s.position)>>32) + uint32(n)
	atomic.StoreUint64(&s.picks[tail%Picks], c.pack())
}

// Publish lets the n picks that were added be taken.
func (s *Service) Publish(n int) {
	// The numbers start again before the lower one could run into the upper one.
	const far = 1 << 30
	for {
		w := atomic.LoadUint64(&s.position)
		to := w + uint64(n)<<32
		if next := uint32(w); next >= far {
			whole := uint64(next - next%Picks)
			to -= whole<<32 | whole
		}
		if atomic.CompareAndSwapUint64(&s.position, w, to) {
			return
		}
	}
}
