package conn

import "time"

// timeouts are in ticks, by protocol and state.
type timeouts struct {
	tcp  [tcpStates]uint32
	sctp [sctpStates]uint32
	udp  uint32
	gen  uint32 // changes with them, so that a connection knows when its own is old
	// untold has a bit for each state that ends no sooner than any in which a connection is
	// half-open: TCP's in the lower half, and SCTP's in the upper.
	untold uint32
}

func (t *timeouts) findUntold() {
	t.untold = 0
	for s, timeout := range t.tcp {
		if timeout >= max(t.tcp[tcpSynRecv], t.tcp[tcpSynAck]) {
			t.untold |= 1 << s
		}
	}
	for s, timeout := range t.sctp {
		if timeout >= t.sctp[sctpInit] {
			t.untold |= 1 << (untoldSCTP + s)
		}
	}
}

// of returns the timeout of a protocol's state, which is the lowest bits of a state word.
func (t *timeouts) of(proto uint8, state uint32) uint32 {
	switch proto {
	case protoTCP:
		return t.tcp[state&stateMask%tcpStates]
	case protoSCTP:
		return t.sctp[state&stateMask%sctpStates]
	}
	return t.udp
}

// tcpSeconds and the like are the kernel's (ip_vs_proto_tcp.c, tcp_timeouts;
// ip_vs_proto_sctp.c, sctp_timeouts; ip_vs_proto_udp.c, udp_timeouts).
var (
	tcpSeconds = [tcpStates]uint32{
		tcpNone: 2, tcpEstablished: 15 * 60, tcpSynSent: 2 * 60, tcpSynRecv: 60,
		tcpFinWait: 2 * 60, tcpTimeWait: 2 * 60, tcpClose: 10, tcpCloseWait: 60,
		tcpLastAck: 30, tcpListen: 2 * 60, tcpSynAck: 120,
	}
	sctpSeconds = [sctpStates]uint32{
		sctpNone: 2, sctpInit1: 4, sctpInit: 61, sctpCookieSent: 61,
		sctpCookieReplied: 61, sctpCookieWait: 61, sctpCookie: 61,
		sctpCookieEchoed: 61, sctpEstablished: 15 * 60, sctpShutdownSent: 61,
		sctpShutdownReceived: 61, sctpShutdownAckSent: 61, sctpRejected: 4,
		sctpClosed: 61,
	}
)

const udpSeconds = 5 * 60

func defaultTimeouts(hz uint32) timeouts {
	t := timeouts{udp: udpSeconds * hz}
	for s, sec := range tcpSeconds {
		t.tcp[s] = sec * hz
	}
	for s, sec := range sctpSeconds {
		t.sctp[s] = sec * hz
	}
	t.findUntold()
	return t
}

// Timeouts returns the three that ipvsadm --set sets: TCP's ESTABLISHED, TCP's
// FIN_WAIT, and UDP. All others are constants.
func (t *states) Timeouts() (tcp, tcpFin, udp time.Duration) {
	return t.Duration(t.timeouts.tcp[tcpEstablished]), t.Duration(t.timeouts.tcp[tcpFinWait]),
		t.Duration(t.timeouts.udp)
}

// SetTimeouts sets them; 0 keeps. A connection has its new timeout from its
// next packet on (ip_vs_ctl.c, ip_vs_set_timeout). What programs have changed until then has
// to be accepted (AcceptState) before they are set again.
func (t *states) SetTimeouts(tcp, tcpFin, udp time.Duration) {
	t.before = t.timeouts
	set := func(ticks *uint32, d time.Duration) {
		if d != 0 {
			*ticks = t.Ticks(d)
		}
	}
	set(&t.timeouts.tcp[tcpEstablished], tcp)
	set(&t.timeouts.tcp[tcpFinWait], tcpFin)
	set(&t.timeouts.udp, udp)
	t.timeouts.findUntold()
	t.timeouts.gen = (t.timeouts.gen + 1) & genMask
}

// timeoutsOf are those that hold for a packet after which the state word was so.
func (t *states) timeoutsOf(state uint32) *timeouts {
	if state>>genShift&genMask == t.timeouts.gen {
		return &t.timeouts
	}
	return &t.before
}

// SetGeneration says which generation the present timeouts are, for a table that
// was adopted: its connections know that number.
func (t *states) SetGeneration(gen uint32) { t.timeouts.gen = gen & genMask }
