package sched

// heaviest finds the next destination of a list whose weight is at least a given one.
// It is a binary tree in which each node is the greatest weight below it, so that one
// heavy destination among many light or quiescent ones is found in as many steps as
// the logarithm of their number has; the kernel goes through them all.
//
// The zero value is that of an empty list.
type heaviest struct {
	dests []*Dest
	nodes []int32 // the root is nodes[1]; the second half are the weights, 0 beyond the list's end
}

// measure takes a list's weights.
func (t *heaviest) measure(dests []*Dest) {
	t.dests = dests
	leaves := 1
	for leaves < len(dests) {
		leaves *= 2
	}
	if len(t.nodes) != 2*leaves {
		t.nodes = make([]int32, 2*leaves)
	}
	weights := t.nodes[leaves:]
	clear(weights)
	for i, d := range dests {
		weights[i] = d.Weight()
	}
	for i := leaves - 1; i > 0; i-- {
		t.nodes[i] = max(t.nodes[2*i], t.nodes[2*i+1])
	}
}

// usable is the first destination from index i on, before end, whose weight is at
// least w, which is 1 or more, and that is not overloaded; or nil.
func (t *heaviest) usable(i, end int, w int32) *Dest {
	for i = t.next(i, w); i < end; i = t.next(i+1, w) {
		if d := t.dests[i]; !d.Overloaded() {
			return d
		}
	}
	return nil
}

// next is the index of the first destination, from index i on, whose weight is at
// least w, which is 1 or more. If there is none, it is no index of the list.
func (t *heaviest) next(i int, w int32) int {
	leaves := len(t.nodes) / 2
	if i >= leaves {
		return leaves
	}
	k := leaves + i
	if t.nodes[k] >= w {
		return i
	}
	// Up, until something heavy is to the right,
	for k&1 == 1 || t.nodes[k+1] < w {
		k /= 2
		if k <= 1 {
			return leaves
		}
	}
	k++
	// and down to the first of it.
	for k < leaves {
		k *= 2
		if t.nodes[k] < w {
			k++
		}
	}
	return k - leaves
}
