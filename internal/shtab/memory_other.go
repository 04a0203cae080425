//go:build !linux

package shtab

// Memory gives zeroed memory for a table, or for the records beside one. Elsewhere than on
// Linux it is for tests, and of Go's heap.
func Memory(size int) (block []byte, free func(), err error) {
	block, free = heap(size)
	return block, free, nil
}

// Populate and Discard do nothing: the heap's memory comes when it is needed, and stays.
func Populate([]byte) {}
func Discard([]byte)  {}
