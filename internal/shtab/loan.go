package shtab

// Loan is what programs have of a table: rings, and overflow slots. Its methods are the
// table's owner's.
type Loan struct {
	rings *Rings
	table *Table
	// lent is how many slots each CPU's programs have, of share at most.
	lent  []int
	share int
	touch func(slot uint32) uint32
	sum   uint32 // of what was touched: the compiler cannot leave it out
}

// NewLoan lays rings of so many CPUs over block (NewRings), from which nothing is lent
// yet. touch reads what the owner will need of an entry that a program has made; what
// it returns means nothing.
func NewLoan(table *Table, block []byte, cpus int, touch func(slot uint32) uint32) (*Loan, error) {
	rings, err := NewRings(block, cpus)
	if err != nil {
		return nil, err
	}
	// A 64th of the slots is the table's room for chance: half of that is not missed.
	share := min(RingCells-1, table.Max()/128/cpus)
	return &Loan{rings: rings, table: table, lent: make([]int, cpus), share: share, touch: touch}, nil
}

// Begin lets programs make entries.
func (l *Loan) Begin() {
	l.table.Beside()
	l.rings.Open()
	l.lend()
}

// lend fills up what programs have.
func (l *Loan) lend() {
	for cpu := range l.lent {
		for l.lent[cpu] < l.share {
			slot, ok := l.table.Lend()
			if !ok {
				return
			}
			if !l.rings.Give(cpu, slot) {
				l.table.TakeBack(slot)
				break
			}
			l.lent[cpu]++
		}
	}
}

// Gather calls take for the slots in which programs have made entries, and reports
// whether there were any. Of each CPU it takes a ring's cells at most, however fast
// programs are.
func (l *Loan) Gather(take func(slot uint32)) (some bool) {
	for cpu := range l.lent {
		for range RingCells / atOnce {
			n := l.look(cpu)
			for range n {
				slot, ok := l.rings.Next(cpu)
				if !ok { // closed meanwhile, by who takes over
					return some
				}
				if slot >= l.table.Homes() {
					l.lent[cpu]--
				}
				take(slot)
			}
			some = some || n > 0
			if n < atOnce {
				break
			}
		}
	}
	if some {
		l.lend()
	}
	return some
}

// atOnce is of how many entries what another CPU has written is loaded side by side.
const atOnce = 16

// look touches the next entries that a CPU's programs have made, and says how many.
func (l *Loan) look(cpu int) (n int) {
	for n < atOnce {
		slot, ok := l.rings.peek(cpu, uint32(n))
		if !ok {
			break
		}
		l.sum += l.touch(slot)
		n++
	}
	return n
}
