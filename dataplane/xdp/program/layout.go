package program

import "github.com/ulvs/ulvs/dataplane"

// An element of the array of servers, by a real server's number. Element 0 is no
// server's.
//
//	 0  ifindex     4  out of which the server is reached
//	 4  MTU         4  0: the way is not known
//	 8  MACs       12  the server's, then the interface's: as at the frame's start
//	20  limit       4  of connections, or 0: one that would be its last is Go's, and so are all
//	                   while it is 1
//	24  quiescent   4  1: who has a template that leads here is Go's
//	28  redirect    4  1: XDP programs of other interfaces may send there
const (
	ServerSize    = 1 << ServerShift
	ServerShift   = 5
	ServerIfindex = 0
	ServerMTU     = 4
	ServerMACs    = 8
	ServerLimit   = 20

	ServerQuiescent = 24
	ServerRedirect  = 28
)

// An element of the array of counters: each CPU has a room for every server, and
// the rooms of two CPUs share no cache line.
const (
	CountSize  = 1 << countShift
	countShift = 4
)

// What the program looks up of its configuration.
//
//	 0  expected    4  what an entry's state word has, of what forwarding asks for
//	 4  heartbeat   4  when a daemon showed itself last, in ticks
//	 8  opening     4  families (a bit each, see OpeningBit) of which connections may be opened, and
//	                   protocols (SloppyTCP, SloppySCTP) of which any packet may open one; and Losing
//	12  templates   4  1: templates may be opened, too
//	16  changing    4  1: states of connections may be changed
//	20  untold      4  a bit for each state of which need not be told (conn.Untold)
//	24  unclaimed  4  families (as opening) of which packets that no claim is for are Go's
//	64  locals   4096  a bit for the fold of each of the host's own addresses, by family
const (
	SettingsSize      = SettingsLocals + 2*LocalsSize
	SettingsExpected  = 0
	SettingsHeartbeat = 4
	SettingsOpening   = 8
	SettingsTemplates = 12
	SettingsChanging  = 16
	SettingsUntold    = 20
	SettingsUnclaimed = 24
	SettingsLocals    = 64

	LocalsSize = dataplane.LocalBits / 8 // a family's
)

// OpeningBit returns a family's bit in the settings.
func OpeningBit(six bool) uint32 {
	if six {
		return 2
	}
	return 1
}

// SloppyTCP and SloppySCTP are the bits of the sysctls of these names, beside the families'.
const (
	SloppyTCP  = 4
	SloppySCTP = 8
	// Losing is beside them: first packets do not wait for what Go may have of their flow.
	Losing = 16
)

// SocketFrame is how large a frame can be, in bytes, that a socket takes.
const SocketFrame = 2048 - 256

// A step of a list of rules (dataplane.MarkStep).
//
//	 0  field   4  where it is among the inputs, in bytes
//	 4  mask    4
//	 8  low     4
//	12  span    4
//	16  yes     4  where the next step lies, in bytes from the first of all, or how the list ends
//	20  no      4
//	24  and     4
//	28  xor     4
const (
	RuleSize  = 32
	RuleField = 0
	RuleMask  = 4
	RuleLow   = 8
	RuleSpan  = 12
	RuleYes   = 16
	RuleNo    = 20
	RuleAnd   = 24
	RuleXor   = 28

	// Rules is how many steps there is room for, and RuleDone and RuleUndecided how lists end.
	Rules         = 1 << 16
	RuleDone      = Rules * RuleSize
	RuleUndecided = RuleDone + 1
)

// Protocols (RFC 5237's registry).
const (
	ProtoTCP  = 6
	ProtoUDP  = 17
	ProtoSCTP = 132
)
