package conn

// A connection whose packets may wait on their way through Go is not for programs: one of them would overtake
// those. So it goes through Go, as flagCrossing says, until Go has none of its packets any more; which both know by
// what they count of flows (accel.Crossing), a program before it looks at the word, and Go after a packet has
// been sent.
//
//   - Go inserts an entry with the flag, unless by a SYN: its client waits for the server's answer. A program
//     that has not found the entry yet may still hand a packet over, so that the flag stays for a grace period.
//   - A program that hands over a packet of an entry that it has found sets the flag, and clears flagSettling.
//   - Go ends that in two steps: Settle sets flagSettling, then it looks at the counts, and Direct clears both
//     if the word is still the same. What a program has counted before is seen by Go; what it counts later, it
//     does before it has seen the word, and changes that.
const (
	flagCrossing = 1 << 31
	flagSettling = 1 << 30
	flagsOfBoth  = flagCrossing | flagSettling
)

// CrossingShift is where these flags are, to the word's end: flagCrossing is the highest bit.
const CrossingShift = 30

// SetCrossing says whether entries go through Go at first.
func (t *states) SetCrossing(on bool) {
	t.crossing = 0
	if on {
		t.crossing = flagCrossing
	}
}

// Crossing reports whether a connection's packets go through Go.
func (t *states) Crossing(id ID) bool { return t.State(id)&flagCrossing != 0 }

// Settle begins to end that, Direct ends it if no program has handed a packet over since, and Cross takes back what
// Settle has done.
func (t *states) Settle(id ID) bool {
	was := t.State(id)
	return was&flagCrossing != 0 && t.SwapState(id, was, was|flagSettling)
}

func (t *states) Direct(id ID) bool {
	was := t.State(id)
	return was&flagSettling != 0 && t.SwapState(id, was, was&^flagsOfBoth)
}

func (t *states) Cross(id ID) {
	for was := t.State(id); was&flagSettling != 0 && !t.SwapState(id, was, was&^flagSettling); was = t.State(id) {
	}
}

// ForceDirect ends it, whatever waits.
func (t *states) ForceDirect(id ID) {
	for was := t.State(id); was&flagsOfBoth != 0 && !t.SwapState(id, was, was&^flagsOfBoth); was = t.State(id) {
	}
}
