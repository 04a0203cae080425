package program

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// maxTags returns how many VLAN tags there may be in a frame: 802.1Q in 802.1ad, of which the one is
// beside an skb.
func (c *Config) maxTags() int {
	if c.Hook == TC {
		return 1
	}
	return 2
}

// emitter has what was emitted so far.
type emitter struct {
	Config
	tags    int  // VLAN tags before what is being emitted
	six     bool // it is for IPv6
	out     asm.Instructions
	symbol  string // of the next instruction
	comment string // above it, in a listing
	listing bool   // comments are wanted: the kernel takes them for line information
	steps   []emitted
}

// emitted is a step with its instructions, from the first up to the one before end.
type emitted struct {
	name       string
	first, end int
}

// step begins a step, of which the listing says what it does; what it returns ends it.
func (e *emitter) step(name, does string) (end func()) {
	at := len(e.steps)
	e.steps = append(e.steps, emitted{name: name, first: len(e.out)})
	e.comment = does
	return func() { e.steps[at].end = len(e.out) }
}

// PassLabel is the label of the way out to the plane behind.
const PassLabel = "pass"

// The verdicts (include/uapi/linux/bpf.h, enum xdp_action).
const (
	ActionPass     = 2 // XDP_PASS
	ActionTX       = 3 // XDP_TX
	ActionRedirect = 4 // XDP_REDIRECT
)

// Where the EtherType and the IP header are in a frame, behind so many VLAN tags.
func (e *emitter) atType() int16 { return int16(12 + 4*e.tags) }

func (e *emitter) atIP() int16 { return int16(14 + 4*e.tags) }

// families returns which the program knows: IPv4, and IPv6.
func (e *emitter) families() []bool {
	if e.Hashed != 0 {
		return []bool{false}
	}
	return []bool{false, true}
}

// label returns the name of a label for this family and so many tags; mark puts it before the next instruction.
func (e *emitter) label(name string) string {
	if e.six {
		name += "6"
	}
	return fmt.Sprintf("%s.%d", name, e.tags)
}

func (e *emitter) mark(name string) { e.symbol = e.label(name) }

func (e *emitter) emit(list ...asm.Instruction) {
	for _, i := range list {
		if e.comment != "" && e.listing {
			i = i.WithSource(asm.Comment(e.comment))
		}
		e.comment = ""
		if e.symbol != "" {
			i = i.WithSymbol(e.symbol)
			e.symbol = ""
		}
		e.out = append(e.out, i)
	}
}

// labelUndecided returns the label of what a connection's packet goes to that is Go's.
func (e *emitter) labelUndecided() string {
	if e.takesGo() {
		return e.labelCrosses(e.label("go"))
	}
	return PassLabel
}

// labelUnexpected returns the label of what a packet goes to whose connection is not for the
// program alone.
func (e *emitter) labelUnexpected() string {
	if e.opens() || e.Crossings != 0 {
		return e.label("pending")
	}
	return e.labelGo()
}

// hasSockets reports whether there are sockets for what is Go's: they know no VLAN.
func (e *emitter) hasSockets() bool { return e.Sockets != 0 && e.tags == 0 }

// atProto returns where the transport protocol is in a frame.
func (e *emitter) atProto() int16 {
	if e.six {
		return e.atIP() + 6
	}
	return e.atIP() + 9
}

// opens reports whether the program opens connections.
func (e *emitter) opens() bool { return e.Claims != 0 && e.Services != 0 && !e.LookupHelper }

// atPorts returns where the transport header is in a frame.
func (e *emitter) atPorts() int16 {
	if e.six {
		return e.atIP() + 40
	}
	return e.atIP() + 20
}
