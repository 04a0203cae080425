package xdp

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/shtab"
)

// places looks at the memory of the tables and rings while nobody changes it, and nothing waits to be used
// again. Each slot has one place: it is free, or it is given to a CPU's programs, or it has one entry, which
// one chain leads to where it is not a home slot.
func (c *contest) places() {
	c.t.Helper()
	rings := c.still.ringArray.memory
	for n, table := range []struct {
		name    string
		memory  []byte
		counted uint64
	}{
		{"connections", c.still.conns.memory, c.counter("connections")},
		{"templates", c.still.templateArray.memory, c.counter("templates")},
	} {
		p := newPlaces(table.memory)
		p.chains()
		for cpu := range c.still.cpus {
			p.given(rings[(n*c.still.cpus+cpu)*shtab.RingsStride:])
		}
		if entries := p.entries(); uint64(entries) != table.counted {
			p.wrong = append(p.wrong, fmt.Sprintf("there are %d entries, counted are %d", entries, table.counted))
		}
		for _, what := range p.wrong[:min(len(p.wrong), 4)] {
			c.t.Errorf("round %d: %s: %s", c.rounds, table.name, what)
		}
	}
}

// slotPlaces are a table's slots, and where each is.
type slotPlaces struct {
	slots [][]byte
	homes int
	where []string
	wrong []string
}

// Where the header of a table's memory has its numbers (internal/shtab, layout.go).
const (
	offHomes = 16
	offSlots = 20
)

func newPlaces(memory []byte) *slotPlaces {
	number := func(off int) int { return int(binary.NativeEndian.Uint32(memory[off:])) }
	p := &slotPlaces{homes: number(offHomes), where: make([]string, number(offSlots))}
	for i := range p.where {
		p.slots = append(p.slots, memory[shtab.HeaderSize+i*shtab.SlotSize:][:shtab.SlotSize])
	}
	return p
}

func (p *slotPlaces) word(i int) uint64 {
	return binary.NativeEndian.Uint64(p.slots[i][shtab.OffWord:])
}

// put notes a slot's place.
func (p *slotPlaces) put(i int, where string) (first bool) {
	if p.where[i] != "" {
		p.wrong = append(p.wrong, fmt.Sprintf("slot %d is in %s and in %s", i, p.where[i], where))
		return false
	}
	p.where[i] = where
	return true
}

// chains follows the chains of all home slots.
func (p *slotPlaces) chains() {
	for home := range p.homes {
		for next := p.next(home); next != 0; next = p.next(next - 1) {
			at := next - 1
			if at < p.homes || at >= len(p.slots) {
				p.wrong = append(p.wrong, fmt.Sprintf("the chain of slot %d leads to slot %d", home, at))
				break
			}
			if !p.put(at, fmt.Sprintf("the chain of slot %d", home)) {
				break
			}
			if word := p.word(at); word == 0 || word == shtab.MaxValue {
				p.wrong = append(p.wrong, fmt.Sprintf("the chain of slot %d has slot %d, whose word is %#x", home, at, word))
			}
		}
	}
}

// circle finds the home slot of a chain that has no end. Where the table is written meanwhile, one that has an
// end may be found now and then.
func (p *slotPlaces) circle() (home int, ok bool) {
	for home := range p.homes {
		n := 0
		for next := p.next(home); next != 0 && next <= len(p.slots); next = p.next(next - 1) {
			if n++; n > 4*len(p.slots) {
				return home, true
			}
		}
	}
	return 0, false
}

// watch looks for chains that have no end until it is stopped: Go would follow such a one for ever, and no audit would come.
func (c *contest) watch() (stop func()) {
	over := make(chan struct{})
	var all sync.WaitGroup
	for name, memory := range map[string][]byte{"connections": c.still.conns.memory, "templates": c.still.templateArray.memory} {
		p := newPlaces(memory)
		all.Go(func() {
			for times := 0; times < 3; times++ {
				select {
				case <-over:
					return
				case <-time.After(100 * time.Millisecond):
				}
				if _, ok := p.circle(); !ok {
					times = -1
				}
			}
			home, _ := p.circle()
			panic(fmt.Sprintf("%s: the chain of slot %d has no end", name, home))
		})
	}
	return func() {
		close(over)
		all.Wait()
	}
}

func (p *slotPlaces) next(i int) int {
	return int(binary.NativeEndian.Uint32(p.slots[i][shtab.OffNext:]))
}

// given looks at the slots that a CPU's programs may use.
func (p *slotPlaces) given(rings []byte) {
	for n := range shtab.RingCells {
		cell := int(binary.NativeEndian.Uint32(rings[shtab.OffFill+4*n:]))
		if cell == 0 {
			continue
		}
		if p.put(cell-1, "a fill ring"); p.word(cell-1) != 0 {
			p.wrong = append(p.wrong, fmt.Sprintf("a fill ring has slot %d, whose word is %#x", cell-1, p.word(cell-1)))
		}
	}
}

// entries counts the entries, none of which is there twice, unreachable, or nobody's.
func (p *slotPlaces) entries() (n int) {
	keys := map[string]int{}
	for i, s := range p.slots {
		switch word := p.word(i); {
		case word == 0:
			continue
		case word == shtab.MaxValue:
			p.wrong = append(p.wrong, fmt.Sprintf("slot %d is neither free nor used: its word is %#x", i, p.word(i)))
			continue
		}
		n++
		if key := string(s[shtab.OffKey:shtab.OffNext]); int64(p.word(i)) < 0 { // else a look-up does not find it
			if other, ok := keys[key]; ok {
				p.wrong = append(p.wrong, fmt.Sprintf("slots %d and %d have the same key", other, i))
			}
			keys[key] = i
		}
		if i >= p.homes && p.where[i] == "" {
			p.wrong = append(p.wrong, fmt.Sprintf("no chain leads to slot %d", i))
		}
		if binary.NativeEndian.Uint32(s[shtab.OffState:])&expiring.PendingFlag != 0 {
			p.wrong = append(p.wrong, fmt.Sprintf("nobody has accepted slot %d", i))
		}
	}
	return n
}
