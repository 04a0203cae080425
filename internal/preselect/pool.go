package preselect

import "math/bits"

// space is the pool's: which blocks of it are free. A block is a Unit or twice as large as
// another, up to Largest, and begins at a multiple of its size; two that were halves of one are
// one again when both are free. What is taken is what lies first of the smallest that do, so that
// those of Largest stay whole.
//
// It is the process's own: of another one nothing is taken.
type space struct {
	free [classes]set // by their numbers among those of their size
	left int          // bytes
}

// classes is how many sizes there are.
const classes = 9

var _ = [1]struct{}{}[Largest-Unit<<(classes-1)]

func newSpace() *space {
	p := &space{left: Pool}
	for c := range p.free {
		p.free[c] = newSet(Pool / Unit >> c)
	}
	for n := range uint32(Pool / Largest) {
		p.free[classes-1].add(n)
	}
	return p
}

// classOf returns the least class whose blocks have so many bytes.
func classOf(size int) int { return bits.Len(uint(size-1) / Unit) }

// take takes a block of so many bytes, 1 to Largest, and returns where it begins.
func (p *space) take(size int) (at uint32, ok bool) {
	class := classOf(size)
	for c := class; c < classes; c++ {
		n, some := p.free[c].least()
		if !some {
			continue
		}
		p.free[c].remove(n)
		for ; c > class; c-- {
			n *= 2
			p.free[c-1].add(n + 1)
		}
		p.left -= Unit << class
		return n * Unit << class, true
	}
	return 0, false
}

// give gives a block back that was taken with this size.
func (p *space) give(at uint32, size int) {
	c := classOf(size)
	p.left += Unit << c
	n := at / Unit >> c
	for ; c < classes-1 && p.free[c].has(n^1); c++ {
		p.free[c].remove(n ^ 1)
		n /= 2
	}
	p.free[c].add(n)
}

// set is a set of numbers: bits, and above them a bit for each word that is not 0, up to a single
// word.
type set [][]uint64

// newSet is for numbers below n.
func newSet(n int) (s set) {
	for more := true; more; more = n > 1 {
		n = (n + 63) / 64
		s = append(s, make([]uint64, n))
	}
	return s
}

func (s set) has(n uint32) bool { return s[0][n/64]>>(n%64)&1 != 0 }

func (s set) add(n uint32) {
	for _, words := range s {
		words[n/64] |= 1 << (n % 64)
		n /= 64
	}
}

func (s set) remove(n uint32) {
	for _, words := range s {
		words[n/64] &^= 1 << (n % 64)
		if n /= 64; words[n] != 0 {
			return
		}
	}
}

// least returns the least of them.
func (s set) least() (n uint32, some bool) {
	if s[len(s)-1][0] == 0 {
		return 0, false
	}
	for i := len(s) - 1; i >= 0; i-- {
		n = n*64 + uint32(bits.TrailingZeros64(s[i][n]))
	}
	return n, true
}
