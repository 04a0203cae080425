package conn

// Two write an entry's state word while there are programs: Go, under the director's forwarding
// lock, and a program, on as many CPUs as there are. They keep to this.
//
//   - A word that has neither flagSet nor PendingFlag is Go's alone: it was just inserted, and
//     a program leaves its packets to Go. Any other is changed by compare and swap, by both.
//   - Whether a connection goes through Go is another matter: crossing.go.
//   - A program changes the state alone, as the tables of TCP have it for a packet without SYN, and
//     those of SCTP for one without INIT, of a word of the present generation. It sets flagChanged,
//     and flagEstablished if the state is ESTABLISHED. If the swap fails, the packet is Go's.
//   - Go has to know soon of a state that ends sooner than the one by which it has set the
//     timer, and of one that makes a template ASSURED. A program tells that in the completion
//     ring (shtab.Rings), after the swap, and sets flagTold, unless that or PendingFlag was set:
//     then Go will look at the word. It changes nothing where the ring has no room. The timer of
//     a half-open connection runs out before most states end that come then (Untold): of those
//     it tells nothing, and Go finds them then, or when it has to do with the connection.
//   - Of a template that becomes ASSURED a program tells in the templates' ring, if the connection names
//     it, and sets no flag: the change itself is like any other. A connection names no template but its
//     own from when Go has accepted it (Rename).
//   - The stamp comes before the swap: Go sets the timer from there, and the connection may have
//     been idle for longer than a state to which a packet leads has.
//   - flagActive says in which of its real server's columns the connection is counted. Whoever
//     changes the word changes the counts (sched.Dest.Share), and no one else does: an addition
//     behind each swap that succeeds, and before an entry of a program's can be found. So counts
//     are what the words say, but for what is on its way.
//   - Who ends an entry closes its word first (CloseState), and takes away what that was counted as:
//     a program's swap fails then.
//   - All that is timed or linked is Go's: flagHalfOpen says whether the connection is among
//     those, and the record which timeout its timer was set by. A program counts those that it
//     establishes which are half-open to Go (shtab.Rings, Answered): HalfOpen leaves them out.
//   - Go accepts a change (AcceptState) when it reads the ring, which it does whenever it takes
//     the lock; when it finds the entry of a packet, or lists it; and before a timer ends it. The record
//     comes before the word that says so: who is killed in between leaves flagChanged, and the
//     next process accepts it. (That its template is ASSURED comes after: that may be lost.)
//   - The tables have no way back without SYN or INIT, so that states that came and went
//     between two looks have changed nothing but what flagEstablished says.
//   - What a program opens by a packet that establishes it at once (sloppy_tcp, sloppy_sctp) it
//     publishes as if it had changed the state before Go accepts it.
//
// A packet's stamp and count are stores of both, as they are without states. Without a daemon, of
// two packets that meet in a word one leaves it as the other has made it.

// Untold has a bit for each state in which a connection that was half-open may be without Go's
// knowing: TCP's in the lower half, and SCTP's in the upper.
func (t *states) Untold() (mask uint32) { return t.timeouts.untold }

// Changed reports whether a program has changed the state, and Go has not accepted it.
func (t *states) Changed(id ID) bool { return t.State(id)&flagChanged != 0 }

// Unaccepted reports whether a program has opened the connection or changed its state, and Go
// has accepted the one or the other not.
func (t *states) Unaccepted(id ID) bool { return t.State(id)&(flagChanged|PendingFlag) != 0 }

// Accept makes of a connection that a program has opened, and counted, what Insert and its
// first packet would have, at the time of that packet, and of the state into which programs have brought
// it since what AcceptState does: template and the owner's bits are Insert's. It reports whether there was
// such a change, and whether one has established it.
func (t *Table) Accept(id ID, template uint32, owner uint8) (changed, established bool) {
	t.Record(id).template = template
	fixed := uint32(owner&0xf)<<ownerShift | t.timeouts.gen<<genShift | flagSet
	proto := t.Flow(id).Proto()
	for {
		was := t.State(id)
		t.ArmFromStamp(id, t.timeouts.of(proto, was))
		is := was&(stateMask|flagActive|flagsOfBoth) | fixed
		if established = was&flagEstablished != 0; !established { // no program counts a packet as an answer
			is |= flagHalfOpen
		}
		if !t.SwapState(id, was, is) {
			continue
		}
		if !established {
			t.halfOpen.arrive(id, t.Stamp(id))
		}
		return was&flagChanged != 0, established
	}
}

// AcceptState makes of the state into which programs have brought a connection what TCP or SCTP
// would have, by the packets that they were. It reports whether one has established it. Without a
// change it does nothing.
func (t *states) AcceptState(id ID) (established bool) {
	for was := t.State(id); was&flagChanged != 0; was = t.State(id) {
		is := was &^ (flagChanged | flagTold | flagEstablished)
		if established = was&flagEstablished != 0; established {
			is &^= flagHalfOpen
		}
		t.Retime(id, t.timeoutsOf(was).of(t.Flow(id).Proto(), was))
		if !t.SwapState(id, was, is) {
			continue
		}
		if (was^is)&flagHalfOpen != 0 {
			t.halfOpen.answered(was)
		}
		return established
	}
	return false
}

// CloseState has programs leave a connection's state alone, which ends next: it is Active or not, and
// all else, as it was. False: a program has changed it, which AcceptState has to accept before,
// unless that does not matter any more.
func (t *states) CloseState(id ID, changed bool) bool {
	for t.programs {
		was := t.State(id)
		if was&flagChanged != 0 && !changed {
			return false
		}
		if t.SwapState(id, was, was&^(flagSet|PendingFlag|flagChanged|flagTold)) {
			break
		}
	}
	return true
}
