package xdp

import (
	"encoding/binary"
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

// rules are lists that give packets marks, in an array that programs read: of equal ones there is
// one. What a claim leads to does not change, nor what a program may have found before.
type rules struct {
	array *array
	steps []rule
	free  []extent
	lists map[string]extent // by what is in them
	// known are those that were placed already for the claims that are being put, and retired those
	// to which no claim leads any more.
	known   map[*dataplane.MarkList]uint32
	retired []extent
}

// extent are steps that follow one another.
type extent struct{ first, n int }

// open makes the array.
func (r *rules) open() (err error) {
	r.array, err = newArray("ulvs_rules", program.Rules*program.RuleSize)
	if err != nil {
		return err
	}
	r.steps = elements[rule](r.array.memory, program.Rules)
	r.free = []extent{{0, program.Rules}}
	r.lists = map[string]extent{}
	return nil
}

func (r *rules) close() {
	if r.array != nil {
		r.array.close()
		r.array = nil
	}
}

// fd is the array's file descriptor, or 0.
func (r *rules) fd() int {
	if r.array == nil {
		return 0
	}
	return r.array.FD()
}

// isList reports whether that is the number of a list.
func isList(number uint32) bool {
	return number >= preselect.FirstList && number < preselect.FirstList+program.RuleDone
}

// place returns the number of a list, which it writes if there is none like it; false: there is no
// room.
func (r *rules) place(list *dataplane.MarkList) (number uint32, ok bool) {
	if number, ok = r.known[list]; ok {
		return number, true
	}
	text := textOf(list)
	at, ok := r.lists[text]
	if !ok {
		if at, ok = r.take(len(list.Steps)); !ok {
			return 0, false
		}
		r.write(at.first, list)
		r.lists[text] = at
	}
	number = preselect.FirstList + uint32(at.first*program.RuleSize)
	r.known[list] = number
	return number, true
}

// textOf returns what is in a list.
func textOf(list *dataplane.MarkList) string {
	b := make([]byte, 0, program.RuleSize*len(list.Steps))
	for _, s := range list.Steps {
		ways := uint32(s.Yes)<<16 | uint32(s.No)
		for _, w := range []uint32{uint32(s.Field), ways, s.Mask, s.Low, s.Span, s.And, s.Xor} {
			b = binary.NativeEndian.AppendUint32(b, w)
		}
	}
	return string(b)
}

// take takes so many steps that are free.
func (r *rules) take(n int) (at extent, ok bool) {
	i := slices.IndexFunc(r.free, func(e extent) bool { return e.n >= n })
	if i < 0 || n == 0 || n > dataplane.MostSteps {
		return at, false
	}
	at = extent{r.free[i].first, n}
	r.free[i].first += n
	if r.free[i].n -= n; r.free[i].n == 0 {
		r.free = slices.Delete(r.free, i, i+1)
	}
	return at, true
}

// write writes a list, where no program looks yet.
func (r *rules) write(first int, list *dataplane.MarkList) {
	to := func(step uint16) uint32 {
		switch {
		case step == dataplane.DoneStep:
			return program.RuleDone
		case int(step) >= len(list.Steps):
			return program.RuleUndecided
		}
		return uint32((first + int(step)) * program.RuleSize)
	}
	for i, s := range list.Steps {
		r.steps[first+i] = rule{field: uint32(s.Field) * 4, mask: s.Mask, low: s.Low, span: s.Span,
			yes: to(s.Yes), no: to(s.No), and: s.And, xor: s.Xor}
	}
}

// retire takes note of which lists no claim of these leads to any more.
func (r *rules) retire(claims *preselect.Claims) {
	r.known = nil // of claims that may be forgotten
	used := make(map[uint32]bool, len(r.lists))
	for _, f := range claims.All() {
		used[f.Number] = true
	}
	for text, at := range r.lists {
		if !used[preselect.FirstList+uint32(at.first*program.RuleSize)] {
			delete(r.lists, text)
			r.retired = append(r.retired, at)
		}
	}
}

// reclaim frees what was retired, once no program runs that may have found it; false: there was
// nothing.
func (r *rules) reclaim(grace func() error) (freed bool, err error) {
	if len(r.retired) == 0 {
		return false, nil
	}
	if grace != nil {
		if err := grace(); err != nil {
			return false, err
		}
	}
	all := append(r.free, r.retired...)
	slices.SortFunc(all, func(a, b extent) int { return a.first - b.first })
	r.free, r.retired = all[:0], nil
	for _, e := range all {
		if n := len(r.free); n > 0 && r.free[n-1].first+r.free[n-1].n == e.first {
			r.free[n-1].n += e.n
		} else {
			r.free = append(r.free, e)
		}
	}
	return true, nil
}
