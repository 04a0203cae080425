package fwmark

import "net/netip"

// evaluation makes lists of steps of the rules of which packets to an address, by one protocol and
// one port after the other, may meet the conditions.
type evaluation struct {
	to       netip.Addr
	protocol uint8
	port     uint16
	chains   map[string][]*Rule
	links    []Link

	*listing
	depth, visits int
	budget        int // of visits, for all ports
	// looks says that something depends on the interface, also if that is the same for all that
	// are known.
	looks bool
}

// maxVisits is how many rules are looked at for a list; chains may be gone through often.
const maxVisits = 1 << 16

// outcome returns what the rules come to for a port.
func (w *evaluation) outcome(port uint16) Outcome {
	w.port, w.depth, w.visits, w.looks = port, 0, min(maxVisits, w.budget), false
	w.budget -= w.visits
	w.listing = newListing()
	start := w.here
	for _, hook := range []string{"", input} {
		end := newLabel() // which does not keep the packet from the next hook
		w.walk(hook, end, end)
		w.place(end)
	}
	w.leave(w.done)
	w.budget += max(w.visits, 0)
	switch {
	case w.full:
		return Outcome{}
	case !w.undecided.reached && w.done.mark.all() && !w.looks:
		return Outcome{Mark: w.done.mark.value, Certain: true}
	}
	list, end := w.finish(start)
	if len(list) == 0 && end == Done && !w.looks {
		return Outcome{Certain: true}
	}
	if w.looks && (len(list) > 0 || end != Undecided) {
		list = guarded(list, end, spans(w.links, func(Link) bool { return true }, false))
	}
	if len(list) > MaxSteps {
		return Outcome{}
	}
	return Outcome{Steps: list}
}

// walk carries packets through a chain and those that it jumps to, to back at its end, and to
// accepted.
func (w *evaluation) walk(chain string, back, accepted *label) {
	// A chain that is entered more often than there are chains is entered in a circle.
	if w.depth++; w.depth > len(w.chains)+2 {
		w.leave(w.undecided)
	}
	defer func() { w.depth-- }()
	for _, r := range w.chains[chain] {
		if w.here == nil {
			return
		}
		if w.visits--; w.visits < 0 {
			w.leave(w.undecided)
			return
		}
		if r.Target == TargetMark && !w.mark.changes(r.Value, r.Mask) {
			continue
		}
		next := newLabel()
		if w.enter(r, next) == no {
			continue
		}
		switch r.Target {
		case TargetMark:
			w.change(r.Value, r.Mask)
		case TargetAccept:
			w.leave(accepted)
		case TargetReturn:
			w.leave(back)
		case TargetGoto:
			w.walk(r.To, back, accepted)
		case TargetJump:
			w.walk(r.To, next, accepted)
		}
		w.place(next)
	}
	w.leave(back)
}
