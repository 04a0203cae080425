package xsk

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// MemoryOptions say how large a Umem is.
type MemoryOptions struct {
	// Frames is how many chunks there are, each for one frame: 1 to 2^22. The
	// sum of Options.Frames over all sockets is enough for all of their rings
	// to be full at once. With less, frames are lost under load, and counted.
	Frames int
	// FrameSize is the bytes of a chunk: 2048, which 0 means too, or 4096. The
	// kernel keeps 256 of them (XDP_PACKET_HEADROOM), so that the longest
	// frame received is 1792 or 3840 bytes, without FCS.
	FrameSize int
}

// Umem is memory for frames, shared with the kernel and by sockets. NewUmem
// makes one; the zero value is of no use. It is safe for concurrent use.
type Umem struct {
	mem   []byte
	shift int // 1<<shift is the size of a chunk

	sockets atomic.Pointer[[]*Socket] // those open; replaced under opening

	// opening is held while sockets are opened and closed. Order of locks:
	// opening, Socket.mu, mu.
	opening sync.Mutex
	closed  bool

	mu       sync.Mutex // guards what follows
	free     []uint32   // a stack: what was used last is in the caches
	stranded map[Queue][]uint32
}

// Packet is a frame that the caller has. Copies of a Packet are the same
// frame: only one of them may be given to Transmit or Release.
//
// The zero value has no frame; with Data set, it is a frame to be sent that a
// Transmit copies.
type Packet struct {
	// Data is the frame, from its destination address on and without FCS. What
	// Receive puts there has the rest of the chunk as its capacity, so that it
	// may grow. It may be replaced by another part of the chunk, or by other
	// memory, which Transmit copies.
	Data []byte

	chunk uint32 // its number plus one; 0 is none
}

// NewUmem makes the memory and populates it. The kernel pins it when a socket
// is opened, which without CAP_IPC_LOCK counts against RLIMIT_MEMLOCK
// (net/xdp/xdp_umem.c, xdp_umem_account_pages).
func NewUmem(o MemoryOptions) (*Umem, error) {
	if o.FrameSize == 0 {
		o.FrameSize = 2048
	}
	if o.FrameSize != 2048 && o.FrameSize != 4096 {
		return nil, fmt.Errorf("frames of %d bytes: give 2048 or 4096", o.FrameSize)
	}
	if o.Frames < 1 || o.Frames > 1<<22 {
		return nil, fmt.Errorf("memory for %d frames: ask for 1 to %d", o.Frames, 1<<22)
	}
	mem, err := unix.Mmap(-1, 0, o.Frames*o.FrameSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("no memory for %d frames of %d bytes: %w; ask for fewer", o.Frames, o.FrameSize, err)
	}
	u := &Umem{
		mem: mem, shift: bits.TrailingZeros(uint(o.FrameSize)),
		free: make([]uint32, o.Frames), stranded: make(map[Queue][]uint32),
	}
	for i := range u.free {
		u.free[i] = uint32(len(u.free) - 1 - i)
	}
	u.sockets.Store(new([]*Socket))
	return u, nil
}

// Frames is how many chunks there are.
func (u *Umem) Frames() int { return len(u.mem) >> u.shift }

// Free is how many chunks nobody has.
func (u *Umem) Free() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.free)
}

// Release takes frames back without sending them, and clears them. Those that
// have none are skipped.
func (u *Umem) Release(packets []Packet) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range packets {
		if c := packets[i].chunk; c != 0 {
			u.free = append(u.free, c-1)
		}
		packets[i] = Packet{}
	}
}

// Reclaim takes the chunks back that closed sockets left with an interface which is gone for so
// long that no driver has them any more: it would not come back under its number.
func (u *Umem) Reclaim(ifindex int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for q, chunks := range u.stranded {
		if q.Ifindex == ifindex {
			u.free = append(u.free, chunks...)
			delete(u.stranded, q)
		}
	}
}

// Close ends the memory: no socket can be opened on it any more, and when all
// that are open are closed, or at once when none is, it is unmapped. Packets
// must not be looked at after that.
func (u *Umem) Close() error {
	u.opening.Lock()
	defer u.opening.Unlock()
	u.closed = true
	return u.unmapUnused()
}

func (u *Umem) unmapUnused() error {
	if !u.closed || u.mem == nil || len(*u.sockets.Load()) > 0 {
		return nil
	}
	err := unix.Munmap(u.mem)
	u.mem = nil
	return err
}

// chunk is the memory of one.
func (u *Umem) chunk(c uint32) []byte {
	at, end := int(c)<<u.shift, int(c+1)<<u.shift
	return u.mem[at:end:end]
}

// number is that of the chunk that an address of the kernel's lies in. All of
// them are validated or made by the kernel, but it is one comparison.
func (u *Umem) number(address uint64) (uint32, bool) {
	return uint32(address >> u.shift), address < uint64(len(u.mem))
}

// give takes chunks back.
func (u *Umem) give(chunks []uint32) {
	if len(chunks) == 0 {
		return
	}
	u.mu.Lock()
	u.free = append(u.free, chunks...)
	u.mu.Unlock()
}

// take appends up to n chunks to list. If there are fewer, it first looks for
// those that were sent by sockets that have not noticed yet, for lack of
// anything to do.
func (u *Umem) take(list []uint32, n int) []uint32 {
	list, n = u.pop(list, n)
	if n == 0 {
		return list
	}
	for _, s := range *u.sockets.Load() {
		if s.mu.TryLock() {
			s.reap()
			s.mu.Unlock()
		}
	}
	list, _ = u.pop(list, n)
	return list
}

// pop is take of what is free; missing is how many are not.
func (u *Umem) pop(list []uint32, n int) (longer []uint32, missing int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	rest := max(0, len(u.free)-n)
	taken := u.free[rest:]
	u.free = u.free[:rest]
	return append(list, taken...), n - len(taken)
}

var errMemoryClosed = errors.New("the memory is closed")

// admit says why there cannot be one more socket.
func (u *Umem) admit(q Queue, o Options) error {
	if u.closed {
		return errMemoryClosed
	}
	filled := o.Fill
	for _, s := range *u.sockets.Load() {
		if s.queue == q {
			return errors.New("this memory has a socket there already: close it first")
		}
		filled += len(s.fill.slots)
	}
	if filled >= u.Frames() {
		return fmt.Errorf("the fill rings of its memory's sockets hold %d frames and the memory %d: "+
			"ask for more memory, or for smaller fill rings", filled, u.Frames())
	}
	return nil
}

func (u *Umem) add(s *Socket) {
	all := append(slices.Clone(*u.sockets.Load()), s)
	u.sockets.Store(&all)
	// A queue can be bound when the pool of the socket that was there before
	// is gone (net/xdp/xsk_buff_pool.c, xp_assign_dev), to which each frame on
	// its way out held on.
	u.mu.Lock()
	u.free = append(u.free, u.stranded[s.queue]...)
	delete(u.stranded, s.queue)
	u.mu.Unlock()
}

// remove takes a socket's chunks back: those that are free, and those that the
// kernel may still touch.
func (u *Umem) remove(s *Socket, free, stranded []uint32) {
	rest := slices.DeleteFunc(slices.Clone(*u.sockets.Load()), func(x *Socket) bool { return x == s })
	u.sockets.Store(&rest)
	u.give(free)
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(stranded) > 0 {
		u.stranded[s.queue] = append(u.stranded[s.queue], stranded...)
	}
}
