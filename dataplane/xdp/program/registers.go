package program

import "github.com/cilium/ebpf/asm"

// The registers of the way in, from the frame's first byte to its connection. R0 to R2
// are scratch, and with R3 to R5 are lost at calls.
const (
	addrs = asm.R3 // words 0 and 1 of the key, as packet.Flow has them
	ports = asm.R4
	kept  = asm.R5 // a bit for each state that the packet leaves as it is
	word  = asm.R6 // the slot's, until dest is all that is left of it
	data  = asm.R7
	end   = asm.R8 // of the packet, until the connection is looked for
	total = asm.R9 // bytes from the IP header on
)

// The registers of the way out, once the connection was found: data and total as before.
const (
	dest = asm.R6 // the real server's number
	slot = asm.R8 // the connection's
)

// The registers of a connection's opening: data and total as before, dest from when the
// real server was chosen.
const (
	service = asm.R6 // what is decided of the service, until dest takes its place
	rings   = asm.R8 // this CPU's
	entry   = asm.R5 // the slot that is being written
)

// The stack, from the frame pointer down.
const (
	stackIndex   = -4  // the key of map look-ups
	stackSum     = -16 // the hash of an IPv6 key
	stackKey     = -56 // five words, as packet.Flow has them, where a hash map is asked
	stackKept    = -64
	stackHome    = -72 // the home slot, while its pair and chain are gone through
	stackOut     = -80 // the interface that leads to the server
	stackContext = -88
	stackClaim   = -96 // the first word of a claim's key

	// Of a connection's opening.
	stackTick     = -120
	stackRings    = -128
	stackTemplate = -168 // the five words of a template's key
	stackHash     = -176 // its hash
	stackNew      = -184 // whether a template is to be made
	stackConn     = -216 // of the connection to be, see entries
	stackEntry    = -248 // of the template to be
	stackVersion  = -256 // of what a service's connections are opened by, and that
	stackBy       = -264
	stackMoved    = -272 // the position behind the pick
	stackFirst    = -104 // what the first packet says: TCP's flags, or SCTP's chunk

	stackData    = -288
	stackTotal   = -296
	stackLoad    = -304
	stackChosen  = -312
	stackService = -320
	stackControl = -280 // the number of the template's slot, and 1, or 0: also where a state is changed

	// Of a list of rules: the fields that a step may look at (dataplane.MarkStep).
	stackInputs = -344
	stackElse   = -352 // the service by address beside the list: its serial 32 | its number 32

	// Of a change of a connection's state.
	stackSlot = -184
	stackWas  = -168 // the state word
	stackIs   = -176
)
