package conn

import (
	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/packet"
)

// states are entries as packets change them.
type states struct {
	*expiring.Table[ID, record]
	timeouts timeouts
	before   timeouts // the last SetTimeouts
	secure   bool
	answered func(uint32)
	halfOpen halfOpen
	programs bool   // change states too
	crossing uint32 // flagCrossing, if entries go through Go at first
}

// Change is what a packet did to its connection.
type Change struct {
	// Activated and Deactivated: the connection moves between the real
	// server's two columns.
	Activated, Deactivated bool
	// Established: it has just come to be so, which makes its template ASSURED
	// (ip_vs_control_assure_ct).
	Established bool
}

// UDP enters the state after a packet of a UDP connection, or of one of a protocol that has
// no states (ip_vs_proto_udp.c, udp_state_transition).
func (t *states) UDP(id ID, now uint32) {
	t.Touched(id, now)
	for { // programs change no state that it has, but a flag (crossing.go)
		if _, ok := t.enter(id, t.State(id), 0, false, noState, t.timeouts.udp, now); ok {
			return
		}
	}
}

// noState is no protocol's.
const noState = stateMask

// TCP enters the state after a packet of a TCP connection, by its flags
// (ip_vs_proto_tcp.c, set_tcp_state).
func (t *states) TCP(id ID, flags uint8, now uint32) Change {
	t.Touched(id, now)
	for {
		was := t.State(id)
		from := was & stateMask
		to := uint32(tcpClose) // a packet without any of the four flags
		switch {
		case flags&packet.RST != 0:
			to = uint32(tcpOnRST[from%tcpStates])
		case flags&packet.SYN != 0:
			to = uint32(tcpOnSYN[from%tcpStates])
			if t.secure && to == tcpSynRecv && from != tcpSynRecv {
				to = tcpSynAck
			}
		case flags&packet.FIN != 0:
			to = uint32(tcpOnFIN[from%tcpStates])
		case flags&packet.ACK != 0:
			to = uint32(tcpOnACK[from%tcpStates])
		}
		if c, ok := t.enter(id, was, to, tcpActive>>to&1 != 0, tcpEstablished, t.timeouts.tcp[to], now); ok {
			return c
		}
	}
}

// SCTP enters the state after a packet of an SCTP association, by its first chunk's type and,
// where that is COOKIE ECHO or COOKIE ACK and an ABORT follows it, by ABORT's
// (ip_vs_proto_sctp.c, set_sctp_state).
func (t *states) SCTP(id ID, chunk uint8, now uint32) Change {
	t.Touched(id, now)
	for {
		was := t.State(id)
		to := uint32(sctpNext[sctpEvent(chunk)][was&stateMask%sctpStates])
		if c, ok := t.enter(id, was, to, to == sctpEstablished, sctpEstablished, t.timeouts.sctp[to], now); ok {
			return c
		}
	}
}

// enter brings an entry from the state word that it was in into a state, with a timeout from
// now on, and reports whether it was in that still. In the same state and with timeouts
// unchanged it touches only the entry's own line. In state established a connection is not
// half-open.
func (t *states) enter(id ID, was, to uint32, active bool, established, timeout, now uint32) (c Change, ok bool) {
	if was&stateMask == to && was>>genShift&genMask == t.timeouts.gen && t.recordSet(was) {
		return c, true
	}
	is := was&(ownerBits|flagHalfOpen|flagChanged|flagTold|flagEstablished|flagsOfBoth) | to |
		t.timeouts.gen<<genShift | flagSet
	switch {
	case was&stateMask == to:
		is |= was & flagActive // a state that stays changes no column
	case active:
		is |= flagActive
		c.Activated = was&flagActive == 0
		if c.Established = to == established; c.Established {
			is &^= flagHalfOpen
		}
	default:
		c.Deactivated = was&flagActive != 0
	}
	// The state last: it says that the record is its own, to whoever adopts it.
	t.Restart(id, timeout, now)
	if !t.SwapState(id, was, is) {
		return Change{}, false
	}
	if (was^is)&flagHalfOpen != 0 {
		t.halfOpen.answered(was)
	}
	return c, true
}

// flagSet says that the record has a timeout of the entry's state: a new
// entry, in state NONE, has the one that Insert gave it.
const flagSet = 1 << 10

func (t *states) recordSet(state uint32) bool { return state&flagSet != 0 }

// Touched counts a packet that restarts the timer and leaves the state alone.
func (t *states) Touched(id ID, now uint32) {
	t.SetStamp(id, now)
	t.Counted(id)
}

// Over reports whether a connection is so far closed that a packet which opens
// one may have its ports: TCP in TIME_WAIT or CLOSE, with finWait also in
// FIN_WAIT; SCTP in CLOSED (ip_vs_core.c, is_new_conn_expected).
func (t *states) Over(id ID, finWait bool) bool {
	s := t.State(id) & stateMask
	switch t.Flow(id).Proto() {
	case protoTCP:
		return s == tcpTimeWait || s == tcpClose || finWait && s == tcpFinWait
	case protoSCTP:
		return s == sctpClosed
	}
	return false
}

// SetSecure has new TCP connections wait in SYNACK and not in SYN_RECV, the
// defence of secure_tcp (ip_vs_proto_tcp.c, tcp_states_dos, of which direct
// routing sees no other difference).
func (t *states) SetSecure(on bool) { t.secure = on }

// Worth says whether a connection may be dropped when memory is short.
type Worth uint8

// Keep it; drop it only if it was hardly used; drop it: it is not open yet
// (ip_vs_conn.c, ip_vs_random_dropentry).
const (
	Keep Worth = iota
	IfStale
	Embryonic
)

// Worth returns what the connection's state says of it.
func (t *states) Worth(id ID) Worth {
	s := t.State(id) & stateMask
	switch t.Flow(id).Proto() {
	case protoTCP:
		switch s {
		case tcpSynRecv, tcpSynAck:
			return Embryonic
		case tcpEstablished:
			return IfStale
		}
		return Keep
	case protoSCTP:
		switch s {
		case sctpInit1, sctpInit:
			return Embryonic
		case sctpEstablished:
			return IfStale
		}
		return Keep
	}
	return IfStale
}

// StateName returns the kernel's name of the connection's state, as ipvsadm -Lc
// shows it.
func (t *states) StateName(id ID) string {
	s := t.State(id) & stateMask
	switch t.Flow(id).Proto() {
	case protoTCP:
		return tcpNames[s%tcpStates]
	case protoSCTP:
		return sctpNames[s%sctpStates]
	case protoUDP:
		return "UDP"
	}
	return "NONE"
}

const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)
