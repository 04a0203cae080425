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
//
// Each service has a record, and its picks, buckets or servers, which are its sequence, lie in a
// pool, as far as that goes: it gets memory there when it is opened, and gives it back when it is
// closed, and then another one may get that. Programs may read meanwhile. Whatever a program has
// read, it moves a word on in the end that it had read first: the position, or else the version. Both
// change when the service is closed, before its memory can be another's, and never come back to
// what they were: a cycle's position has the version in it, and a ring's next pick is another one
// each time that it is opened. So what was read of a sequence is used only if it was the service's
// all the time. And that it is that service's which the claim names, although numbers are given anew:
// a program reads the version before it compares the serial, and goes on only while the version is
// the same behind the position, or behind the template that it has found. (Where processors load in
// another order than that of the instructions, programs have to see to it that the word is read
// first; see package program.)
package preselect

import (
	"sync/atomic"

	"github.com/ulvs/ulvs/internal/shtab"
)

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

// Memory is the records and the pool. Its methods, and those of its services, are the owner's, one
// goroutine's at a time, beside any programs.
type Memory struct {
	records []record
	pool    []byte
	space   *space
}

// Service is a service to which connections are opened, or about to be.
type Service struct {
	*record
	memory *Memory
	size   int // of its sequence, in bytes; 0: it has none
}

// Over lays services over two blocks, which must have RecordsSize and SequencesSize bytes, start
// on a cache line, and be zero or have had services: CloseAll closes those.
func Over(records, sequences []byte) (*Memory, error) {
	list, err := shtab.RecordsOver[record](records, Services)
	if err == nil {
		sequences, err = shtab.RecordsOver[byte](sequences, SequencesSize())
	}
	if err != nil {
		return nil, err
	}
	return &Memory{records: list, pool: sequences, space: newSpace()}, nil
}

// RecordsSize returns how many bytes the records of Services services take, and SequencesSize
// how many the pool takes.
func RecordsSize() int   { return shtab.RecordsSize[record](Services) }
func SequencesSize() int { return Pool + Largest }

// CloseAll closes what another process has opened. taken is called for each service whose
// scheduler's picks programs took, with the last of them.
func (m *Memory) CloseAll(taken func(number int, last Pick)) {
	for n := range m.records {
		if by, last := m.close(&m.records[n]); by&ByPicks != 0 {
			taken(n, last)
		}
	}
}

// Renew gives a number, which nobody has, to another service, and returns its serial, which none
// before it had. Claims of those lead nowhere then.
func (m *Memory) Renew(number uint32) (serial uint32) {
	return atomic.AddUint32(&m.records[number].serial, 1)
}

// Serial returns what the last Renew of a number did.
func (m *Memory) Serial(number uint32) uint32 {
	return atomic.LoadUint32(&m.records[number].serial)
}

// RingSize is how many bytes a ring takes; CycleSize, BucketsSize and ServersSize return how many a
// cycle, buckets or real servers to compare take, of so many.
const RingSize = 8 * Picks

func CycleSize(picks int) int     { return 8 * (picks + 1) }
func BucketsSize(buckets int) int { return BucketSize * buckets }
func ServersSize(servers int) int { return ComparedSize * servers }

// Reserve returns the service of a number, which is closed, with room for a sequence of so many
// bytes, up to Largest. It has it until it is closed: it is to be opened. False: there is none.
func (m *Memory) Reserve(number uint32, size int) (s *Service, ok bool) {
	s = &Service{record: &m.records[number], memory: m, size: size}
	if size == 0 {
		return s, true
	}
	at, ok := m.space.take(size)
	if !ok {
		return nil, false
	}
	atomic.StoreUint32(&s.at, at)
	// On other processors than amd64 it is by this load that what is written into the block
	// comes after the closing of who had it.
	_ = atomic.LoadUint32(&s.at)
	return s, true
}

// Left returns how many bytes of the pool nobody has.
func (m *Memory) Left() int { return m.space.left }

// Open has programs open connections to a service: by is what by, form what its templates are
// found by, and last where its scheduler stands, which matters ByPicks alone. It must be closed.
// (A program that has read the service before it was closed may put old bits and new ones
// together. It finds no template then, or one that the client had.)
func (s *Service) Open(by uint32, form Form, last Pick) {
	s.keep, s.put = form.Keep, form.Put
	if by&ByPicks != 0 {
		// No number is that of an earlier ring, as far as it was filled.
		next := uint64(s.ring+Picks) % far
		atomic.StoreUint64(&s.position, next|next<<32)
		s.SetLast(last)
	}
	atomic.AddUint32(&s.version, 1)
	atomic.StoreUint32(&s.by, by)
}

// OpenCycle does what Open does ByPicks, with a cycle: list are the picks from where the scheduler
// stands on, up to Picks-1, and on its last one follows that of number wrap.
func (s *Service) OpenCycle(by uint32, form Form, last Pick, list []Pick, wrap int) {
	s.keep, s.put = form.Keep, form.Put
	atomic.StoreUint64(s.memory.pick(s.record, 0), last.pack())
	for i, c := range list {
		atomic.StoreUint64(s.memory.pick(s.record, uint32(i+1)), c.pack())
	}
	atomic.StoreUint32(&s.length, uint32(len(list)+1))
	atomic.StoreUint32(&s.wrap, uint32(wrap+1))
	version := atomic.AddUint32(&s.version, 1)
	atomic.StoreUint64(&s.position, Cycle|uint64(version)<<32)
	atomic.StoreUint32(&s.by, by)
}

// SetBuckets writes which real server each bucket has, 0 for none, while the service is closed: for
// ByHash. Programs that have read them see that the version has changed.
func (s *Service) SetBuckets(dest func(bucket int) uint32) {
	list := s.memory.buckets(s.record)[:s.size/BucketSize]
	for i := range list {
		list[i] = dest(i)
	}
}

// Weighed is a real server by its number, and its weight, 1 or more.
type Weighed struct {
	Dest   uint32
	Weight int32
}

// SetServers writes the real servers, 1 to MostCompared, while the service is closed: for
// ByCounts. Programs that have read them see that the version has changed.
func (s *Service) SetServers(list []Weighed) {
	entries := s.memory.compared(s.record)
	for i, w := range list {
		next := uint32(i+1) * ComparedSize
		if i == len(list)-1 {
			next = LastCompared
		}
		entries[i] = compared{dest: w.Dest, next: next, weight: w.Weight}
	}
}

// Close has programs open no more connections, and gives the sequence's memory back: the service is
// not used any more. by is what they did it by; with ByPicks, last is the last choice that was taken.
func (s *Service) Close() (by uint32, last Pick) {
	by, last = s.memory.close(s.record)
	if s.size > 0 {
		s.memory.space.give(s.at, s.size)
	}
	s.size = 0
	return by, last
}

func (m *Memory) close(r *record) (by uint32, last Pick) {
	by = atomic.SwapUint32(&r.by, 0)
	atomic.AddUint32(&r.version, 1)
	for {
		w := atomic.LoadUint64(&r.position)
		next := w & 0xffff_ffff
		if w&Cycle != 0 {
			next++ // the first of an empty ring behind the last that was taken
		}
		if atomic.CompareAndSwapUint64(&r.position, w, next|next<<32) {
			if w&Cycle == 0 && by&ByPicks != 0 {
				r.ring = uint32(next)
			}
			if by&ByPicks != 0 {
				last = unpackPick(atomic.LoadUint64(m.pick(r, uint32(next-1))))
			}
			return by, last
		}
	}
}

// SetLast writes down where the scheduler stands. No choice may be left.
func (s *Service) SetLast(last Pick) {
	at := uint32(atomic.LoadUint64(&s.position) - 1)
	atomic.StoreUint64(s.memory.pick(s.record, at), last.pack())
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
			v := atomic.LoadUint64(s.memory.pick(s.record, next))
			if atomic.CompareAndSwapUint64(&s.position, w, w&^0xffff_ffff|uint64(next)) {
				return unpackPick(v), true
			}
			continue
		}
		if uint32(w) == uint32(w>>32) {
			return Pick{}, false
		}
		v := atomic.LoadUint64(s.memory.pick(s.record, uint32(w)))
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
	atomic.StoreUint64(s.memory.pick(s.record, tail), c.pack())
}

// The numbers start again at far, before the lower one could run into the upper one.
const far = 1 << 30

// Publish lets the n picks that were added be taken.
func (s *Service) Publish(n int) {
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
