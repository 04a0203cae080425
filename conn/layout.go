package conn

import "github.com/ulvs/ulvs/internal/expiring"

// An entry's state word: the protocol's state in the lowest bits, by which an XDP
// program knows what it may forward; above it, flags and the generation of the
// timeouts that the record's timeout was taken from; at the top, crossing.go's two. Bit 15 is expiring.Made. Bits 4 and 5
// are 0, as a program shifts by the lowest six.
const (
	stateMask = 0xf
	// A program has brought the entry into its state, and Go has not accepted that.
	flagChanged = 1 << 6
	// One of those states was ESTABLISHED.
	flagEstablished = 1 << 7
	flagActive      = 1 << 8 // counts as active; the kernel's IP_VS_CONN_F_INACTIVE, negated
	// Its client has not answered: it was never established or, without states, has had one
	// packet when that was last looked at.
	flagHalfOpen = 1 << 9
	ownerShift   = 11 // four bits of the owner's
	ownerBits    = 0xf << ownerShift
	// It was told that the entry is Changed.
	flagTold = 1 << 16
	genShift = 17
	genMask  = 0x1fff
)

// What an XDP program needs to know of an entry's state word, besides the shared table's
// layout, to forward packets by itself, to change states (changed.go), and to make
// entries of new connections (package dataplane, Opener). All else is Go's.
const (
	// DestMask are the bits of an entry's value that are its real server.
	DestMask = MaxDest
	// TemplateShift is where a program puts what it has opened the entry by: the number of a
	// template, up to MaxNamed, which is not 0 and the owner's, or 0 where it has none or cannot
	// say it.
	TemplateShift = 24
	MaxNamed      = 1<<24 - 1
	// StateMask are the bits of the state word that are the protocol's state.
	StateMask = stateMask
	// ChangedFlag is set by a program that changes the state, and EstablishedFlag if that is
	// ESTABLISHED, until AcceptState.
	ChangedFlag     = flagChanged
	EstablishedFlag = flagEstablished
	// ToldFlag is set by a program that has told of the change, and HalfOpenFlag by Go, until it
	// has accepted that the connection was established.
	ToldFlag     = flagTold
	HalfOpenFlag = flagHalfOpen
	// SetFlag is set once the entry has had a packet.
	SetFlag = flagSet
	// OwnerShift is where the owner's four bits are.
	OwnerShift = ownerShift
	// GenShift is where the generation of the timeouts is, and from there on all bits are as forwarding asks for.
	GenShift = genShift
	// PendingFlag is set from when a program opened the entry until Accept.
	PendingFlag = expiring.PendingFlag
	// OpenedTCP and OpenedUDP are the state words of connections that a program makes of
	// a SYN or of a UDP packet; EstablishedTCP and EstablishedSCTP of those that it makes of a packet
	// that establishes them, and ClosedTCP of one that closes it. SCTPFirst has others of SCTP's.
	OpenedTCP       = PendingFlag | tcpSynRecv | flagActive
	OpenedUDP       = PendingFlag
	EstablishedTCP  = PendingFlag | tcpEstablished | flagActive | flagChanged | flagEstablished
	EstablishedSCTP = PendingFlag | sctpEstablished | flagActive | flagChanged | flagEstablished
	ClosedTCP       = PendingFlag | tcpClose
	// ActiveFlag is set while the connection is counted as active.
	ActiveFlag = flagActive
	// UntoldSCTP is how far SCTP's states are from TCP's in what Untold returns.
	UntoldSCTP = untoldSCTP
)

// untoldSCTP is more than TCP has states.
const untoldSCTP = 16

// What states mean, for a program that shifts by the state: of both, StateActive is a bit for each
// in which a connection is counted as active, and StateEstablished one for ESTABLISHED.
const (
	TCPMeaning  = tcpActive<<StateActive | 1<<(StateEstablished+tcpEstablished)
	SCTPMeaning = 1<<(StateActive+sctpEstablished) | 1<<(StateEstablished+sctpEstablished)

	StateActive      = 0
	StateEstablished = 16
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

// Generation returns that of the present timeouts; an entry with another one gets
// its new timeout at its next packet.
func (t *states) Generation() uint32 { return t.timeouts.gen }

// TCPNext are the states that TCP packets without SYN lead to, four bits for each state from
// the lowest on: OnACK by one that has ACK alone of SYN, FIN, RST and ACK, and so on; OnNone by
// one that has none of them.
type TCPNext struct{ OnACK, OnFIN, OnRST, OnNone uint64 }

// NextStates returns them.
func NextStates() TCPNext {
	row := func(next *[tcpStates]uint8) (row uint64) {
		for s, to := range next {
			row |= uint64(to) << (4 * s)
		}
		return row
	}
	var none [tcpStates]uint8
	for s := range none {
		none[s] = tcpClose
	}
	return TCPNext{OnACK: row(&tcpOnACK), OnFIN: row(&tcpOnFIN), OnRST: row(&tcpOnRST), OnNone: row(&none)}
}
