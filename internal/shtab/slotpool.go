package shtab

// SlotPool is what programs have of a table: rings, and overflow slots. Its methods are the
// table's owner's.
type SlotPool struct {
	rings *Rings
	table *Table
	// reserved is how many slots each CPU's programs have, of share at most.
	reserved []int
	share    int
	wanting  bool // a CPU's had none left when Drain looked last
	touch    func(slot uint32) uint32
	sum      uint32 // of what was touched: the compiler cannot leave it out
}

// NewSlotPool lays rings of so many CPUs over block (NewRings), for which nothing is reserved
// yet. touch reads what the owner will need of an entry that a program has inserted; what
// it returns means nothing.
func NewSlotPool(table *Table, block []byte, cpus int, touch func(slot uint32) uint32) (*SlotPool, error) {
	rings, err := NewRings(block, cpus)
	if err != nil {
		return nil, err
	}
	// A 64th of the slots is the table's room for chance: half of that is not missed.
	share := min(RingCells-1, table.Max()/128/cpus)
	return &SlotPool{rings: rings, table: table, reserved: make([]int, cpus), share: share, touch: touch}, nil
}

// Open lets programs insert entries.
func (l *SlotPool) Open() {
	l.table.AllowConcurrentInsert()
	l.rings.Open()
	l.refill()
}

// Answered is Rings.Answered.
func (l *SlotPool) Answered() uint32 { return l.rings.Answered() }

// refill fills the fill rings from the table's overflow slots.
func (l *SlotPool) refill() {
	for cpu := range l.reserved {
		for l.reserved[cpu] < l.share {
			slot, ok := l.table.Reserve()
			if !ok {
				return
			}
			if !l.rings.Fill(cpu, slot) {
				l.table.Unreserve(slot)
				break
			}
			l.reserved[cpu]++
		}
	}
}

// Wanting reports whether programs may have had no slot for an entry that is in one: both of its
// home slots were taken, and a CPU's programs had none left before the last Drain.
func (l *SlotPool) Wanting(slot uint32) bool { return l.wanting && slot >= l.table.Homes() }

// Drain calls take for the slots in which programs have inserted entries, or changed their
// state, and reports whether there were any. Of each CPU it takes a ring's cells at most,
// however fast programs are.
func (l *SlotPool) Drain(take func(slot uint32, inserted bool)) (some bool) {
	homes, slots := l.table.Homes(), uint32(l.table.Slots())
	var cells Cells
	l.wanting = false
	for cpu := range l.reserved {
		for range RingCells / len(cells) {
			list := l.rings.Completed(cpu, &cells)
			// What another CPU has written is loaded side by side.
			for _, v := range list {
				if slot := v&^ChangedCell - 1; slot < slots {
					l.sum += l.touch(slot)
				}
			}
			for _, v := range list {
				slot, inserted := v&^ChangedCell-1, v&ChangedCell == 0
				if slot >= slots {
					continue // no program writes that
				}
				if inserted && slot >= homes {
					l.reserved[cpu]--
				}
				take(slot, inserted)
			}
			some = some || len(list) > 0
			if len(list) < len(cells) {
				break
			}
		}
		l.wanting = l.wanting || l.reserved[cpu] == 0
	}
	if some {
		l.refill()
	}
	return some
}
