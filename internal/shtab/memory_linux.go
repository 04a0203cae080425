package shtab

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Memory gives zeroed memory for a table, or for the records beside one, that
// Go's garbage collector never looks at. With populate, pages are there at
// once; otherwise the first touch of each costs an insert 80 to 200 ns. free
// gives it back; nothing may use it then.
//
// Under the race detector it is ordinary Go memory: the detector is blind to
// any other.
func Memory(size int, populate bool) (block []byte, free func(), err error) {
	if raceEnabled {
		block, free = heap(size)
		return block, free, nil
	}
	flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if populate {
		flags |= unix.MAP_POPULATE
	}
	block, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, nil, fmt.Errorf("shtab: %d bytes of memory: %w; ask for fewer connections", size, err)
	}
	return block, func() { _ = unix.Munmap(block) }, nil
}

// heap is memory from Go's heap that starts on a cache line.
func heap(size int) ([]byte, func()) {
	b := make([]byte, size+SlotSize)
	skip := lineOffset(b)
	return b[skip : skip+size], func() {}
}

// AllocRecords gives n zeroed records beside a table, from Memory. R must hold
// no pointers.
func AllocRecords[R any](n int, populate bool) (recs []R, free func(), err error) {
	block, free, err := Memory(n*sizeOf[R](), populate)
	if err != nil {
		return nil, nil, err
	}
	return records[R](block, n), free, nil
}

// RecordsSize is how many bytes n records take.
func RecordsSize[R any](n int) int { return n * sizeOf[R]() }

// RecordsOver lays n records over a block, which must be large enough, start on a
// cache line, and live as long as they. R must hold no pointers.
func RecordsOver[R any](block []byte, n int) ([]R, error) {
	if len(block) < RecordsSize[R](n) || lineOffset(block) != 0 {
		return nil, fmt.Errorf("shtab: memory of %d bytes, %d off a cache line: %d records need %d", len(block), lineOffset(block), n, RecordsSize[R](n))
	}
	return records[R](block, n), nil
}
