package shtab

// fifo is a queue of free slots, so that the one freed last is used last: a
// reader that is late has the longest time. It never holds more than it was
// made for.
type fifo struct {
	slots []uint32
	head  int
	n     int
	kept  int // so many are not taken
}

func newFifo(n int) fifo { return fifo{slots: make([]uint32, n)} }

func (f *fifo) len() int { return f.n }

// empty reports whether there is none to take.
func (f *fifo) empty() bool { return f.n <= f.kept }

func (f *fifo) push(i uint32) {
	at := f.head + f.n
	if at >= len(f.slots) {
		at -= len(f.slots)
	}
	f.slots[at] = i
	f.n++
}

func (f *fifo) pop() uint32 {
	i := f.slots[f.head]
	f.n--
	if f.head++; f.head == len(f.slots) {
		f.head = 0
	}
	return i
}
