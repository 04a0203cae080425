package shtab

// Loan is what programs have of a table: rings, and overflow slots. Its methods are the
// table's owner's.
type Loan struct {
	rings *Rings
	table *Table
	// lent is how many slots each CPU's programs have, of share at most.
	lent  []int
	share int
}

// NewLoan lays rings of so many CPUs over block (NewRings), from which nothing is lent
// yet.
func NewLoan(table *Table, block []byte, cpus int) (*Loan, error) {
	rings, err := NewRings(block, cpus)
	if err != nil {
		return nil, err
	}
	// A 64th of the slots is the table's room for chance: half of that is not missed.
	share := min(RingCells-1, table.Max()/128/cpus)
	return &Loan{rings: rings, table: table, lent: make([]int, cpus), share: share}, nil
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
		for range RingCells {
			slot, ok := l.rings.Next(cpu)
			if !ok {
				break
			}
			some = true
			if slot >= l.table.Homes() {
				l.lent[cpu]--
			}
			take(slot)
		}
	}
	if some {
		l.lend()
	}
	return some
}
