package conn

import "github.com/ulvs/ulvs/internal/expiring"

// What an XDP program needs to know of an entry's state word, besides the shared
// table's layout: it forwards a packet by itself that leaves the entry in the
// state in which it is, and only stamps and counts it. It may make entries of new
// connections (package dataplane, Opener). All else is Go's.
const (
	// DestMask are the bits of an entry's value that are its real server.
	DestMask = MaxDest
	// StateMask are the bits of the state word that are the protocol's state.
	StateMask = stateMask
	// SetFlag is set once the entry has had a packet.
	SetFlag = flagSet
	// OwnerShift is where the owner's four bits are.
	OwnerShift = ownerShift
	// GenShift is where the generation of the timeouts is, to the word's end.
	GenShift = genShift
	// PendingFlag is set from when a program opened the entry until Accept.
	PendingFlag = expiring.PendingFlag
	// OpenedTCP and OpenedUDP are the state words of connections that a program makes of
	// a SYN or of a UDP packet.
	OpenedTCP = PendingFlag | tcpSynRecv
	OpenedUDP = PendingFlag
)

// StatesKept has a bit for each TCP state that a packet with some flags does not
// change: OnACK for one that has ACK alone of SYN, FIN, RST and ACK, and so on;
// OnNone for one that has none of them.
type StatesKept struct{ OnACK, OnFIN, OnRST, OnNone uint32 }

// TCPKept returns the states that TCP packets keep.
func TCPKept() StatesKept {
	kept := func(next *[tcpStates]uint8) (mask uint32) {
		for s, to := range next {
			if int(to) == s {
				mask |= 1 << s
			}
		}
		return mask
	}
	return StatesKept{OnACK: kept(&tcpOnACK), OnFIN: kept(&tcpOnFIN), OnRST: kept(&tcpOnRST), OnNone: 1 << tcpClose}
}

// SCTPKept has a bit for each SCTP state that a packet does not change whose
// first chunk means nothing to the state machine, such as DATA and SACK: of a
// type below 32 that is not in SCTPEvents.
func SCTPKept() (mask uint32) {
	for s, to := range sctpNext[sctpData] {
		if int(to) == s {
			mask |= 1 << s
		}
	}
	return mask
}

// SCTPEvents has a bit for each chunk type that means something.
func SCTPEvents() (mask uint32) {
	for chunk := range uint8(32) {
		if sctpEvent(chunk) != sctpData {
			mask |= 1 << chunk
		}
	}
	return mask
}

// Generation returns that of the present timeouts; an entry with another one gets
// its new timeout at its next packet.
func (t *Table) Generation() uint32 { return t.timeouts.gen }
