package shtab

import "fmt"

// RecordsSize returns how many bytes n records take.
func RecordsSize[R any](n int) int { return n * sizeOf[R]() }

// RecordsOver lays n records over a block, which must be large enough, start on a
// cache line, and live as long as they. R must hold no pointers.
func RecordsOver[R any](block []byte, n int) ([]R, error) {
	if len(block) < RecordsSize[R](n) || offset(block, SlotSize) != 0 {
		return nil, fmt.Errorf("memory of %d bytes, %d off a cache line: %d records need %d", len(block), offset(block, SlotSize), n, RecordsSize[R](n))
	}
	return records[R](block, n), nil
}

// heap returns memory from Go's heap that starts on a cache line.
func heap(size int) ([]byte, func()) {
	b := make([]byte, size+SlotSize)
	skip := offset(b, SlotSize)
	return b[skip : skip+size], func() {}
}
