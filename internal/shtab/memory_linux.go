package shtab

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Memory gives zeroed memory for a table, or for the records beside one, that
// Go's garbage collector never looks at. free gives it back; nothing may use it then.
//
// Under the race detector it is ordinary Go memory: the detector is blind to
// any other.
func Memory(size int) (block []byte, free func(), err error) {
	if raceEnabled {
		block, free = heap(size)
		return block, free, nil
	}
	// Entries lie anywhere in it, and a huge page spares most of them a miss of the
	// processor's TLB; whole ones only, where they are worth while.
	length := size
	if size >= 2*hugePage {
		length = (size+hugePage-1)&^(hugePage-1) + hugePage
	}
	all, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot have %d bytes of memory: %w; ask for fewer connections", size, err)
	}
	block = all
	if length > size {
		skip := offset(all, hugePage)
		block = all[skip : skip+size : length-hugePage+skip]
		// A kernel without huge pages refuses, and ordinary ones will do.
		_ = unix.Madvise(block[:cap(block)], unix.MADV_HUGEPAGE)
	}
	return block, func() { _ = unix.Munmap(all) }, nil
}

// hugePage is the size of one, on amd64 and mostly on arm64.
const hugePage = 2 << 20

// Populate has all pages of a block from Memory be there: the first touch of each costs
// an insert 80 to 200 ns. What is in them stays, whoever else uses them.
func Populate(block []byte) {
	if raceEnabled {
		return // it is another's heap
	}
	if unix.Madvise(block, unix.MADV_POPULATE_WRITE) == nil { // since Linux 5.14
		return
	}
	writeAll(block)
}

// Discard gives back the pages of a block from Memory, whose contents are lost. It can be used
// further.
func Discard(block []byte) {
	if !raceEnabled {
		_ = unix.Madvise(block, unix.MADV_DONTNEED) // else they stay
	}
}

// writeAll writes to every page, and changes nothing.
func writeAll(block []byte) {
	const page = 4096 / 4
	words := records[uint32](block, len(block)/4)
	for at := 0; at < len(words); at += page {
		atomic.AddUint32(&words[at], 0)
	}
}
