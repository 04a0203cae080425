package conn

// The states of SCTP (include/net/ip_vs.h, IP_VS_SCTP_S_*).
const (
	sctpNone = iota
	sctpInit1
	sctpInit
	sctpCookieSent
	sctpCookieReplied
	sctpCookieWait
	sctpCookie
	sctpCookieEchoed
	sctpEstablished
	sctpShutdownSent
	sctpShutdownReceived
	sctpShutdownAckSent
	sctpRejected
	sctpClosed
	sctpStates
)

var sctpNames = [sctpStates]string{
	"NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE",
	"C-ECHOED", "ESTABLISHED", "S-SENT", "S-RECEIVED", "S-ACK-SENT",
	"REJECTED", "CLOSED",
}

// What a chunk means to the state machine.
const (
	sctpData = iota // and everything that is not in the list
	sctpEvInit
	sctpInitAck
	sctpCookieEcho
	sctpCookieAck
	sctpShutdown
	sctpShutdownAck
	sctpShutdownComplete
	sctpError
	sctpAbort
	sctpEvents
)

// sctpEvent maps a chunk's type (RFC 9260, 3.2) to its event (sctp_events).
func sctpEvent(chunk uint8) int {
	switch chunk {
	case 1:
		return sctpEvInit
	case 2:
		return sctpInitAck
	case 6:
		return sctpAbort
	case 7:
		return sctpShutdown
	case 8:
		return sctpShutdownAck
	case 9:
		return sctpError
	case 10:
		return sctpCookieEcho
	case 11:
		return sctpCookieAck
	case 14:
		return sctpShutdownComplete
	}
	return sctpData
}

// sctpNext is the next state by event and present state, where only the
// client's half is seen (ip_vs_proto_sctp.c, sctp_states, INPUT-ONLY).
var sctpNext = buildSCTP()

func buildSCTP() (next [sctpEvents][sctpStates]uint8) {
	// Each event: to where, from which states; the rest stays.
	type move struct {
		to   uint8
		from []uint8
	}
	moves := [sctpEvents][]move{
		sctpData: {{sctpEstablished, []uint8{sctpNone, sctpCookieWait}}},
		sctpEvInit: {
			{sctpInit1, []uint8{sctpNone}},
			{sctpInit, []uint8{sctpInit1, sctpInit, sctpCookieSent, sctpCookieReplied, sctpCookieWait, sctpRejected, sctpClosed}},
		},
		sctpInitAck:    {{sctpCookieEchoed, []uint8{sctpNone, sctpInit1, sctpInit, sctpCookieSent, sctpCookieReplied, sctpCookieWait}}},
		sctpCookieEcho: {{sctpEstablished, []uint8{sctpNone, sctpInit1, sctpInit, sctpCookieSent, sctpCookieReplied, sctpCookieWait}}},
		sctpCookieAck:  {{sctpEstablished, []uint8{sctpNone, sctpCookieSent, sctpCookieReplied, sctpCookie, sctpCookieEchoed}}},
		sctpShutdown:   {{sctpShutdownReceived, []uint8{sctpNone, sctpEstablished}}},
		sctpShutdownAck: {
			{sctpClosed, []uint8{sctpNone, sctpEstablished, sctpShutdownSent, sctpShutdownAckSent}},
			{sctpInit, []uint8{sctpInit1}},
		},
		sctpShutdownComplete: {{sctpClosed, []uint8{sctpNone, sctpInit1, sctpInit, sctpCookieSent, sctpCookieReplied, sctpShutdownReceived, sctpShutdownAckSent}}},
		sctpError:            {{sctpClosed, []uint8{sctpNone}}},
		sctpAbort: {
			{sctpClosed, []uint8{sctpNone, sctpInit1, sctpInit, sctpCookieSent, sctpCookieReplied, sctpCookie,
				sctpCookieEchoed, sctpEstablished, sctpShutdownSent, sctpShutdownReceived, sctpShutdownAckSent, sctpRejected}},
			{sctpRejected, []uint8{sctpCookieWait}},
		},
	}
	for ev := range next {
		for s := range next[ev] {
			next[ev][s] = uint8(s)
		}
		for _, m := range moves[ev] {
			for _, s := range m.from {
				next[ev][s] = m.to
			}
		}
	}
	return next
}

// SCTPKept has a bit for each SCTP state that a packet does not change whose first chunk means
// nothing to the state machine, such as DATA and SACK: of a type that is not in SCTPEvents.
func SCTPKept() (mask uint32) {
	for s, to := range sctpNext[sctpData] {
		if int(to) == s {
			mask |= 1 << s
		}
	}
	return mask
}

// SCTPEvents has a bit for each chunk type that means something. They are below 32.
func SCTPEvents() (mask uint32) {
	for chunk := range uint8(32) {
		if sctpEvent(chunk) != sctpData {
			mask |= 1 << chunk
		}
	}
	return mask
}

// Chunk types by which programs go (RFC 9260, 3.2).
const (
	ChunkInit       = 1
	ChunkAbort      = 6
	ChunkCookieEcho = 10
	ChunkCookieAck  = 11
)

// SCTPNext returns the states that a packet leads to by a chunk's type, four bits for each state
// from the lowest on.
func SCTPNext(chunk uint8) (row uint64) {
	for s, to := range sctpNext[sctpEvent(chunk)] {
		row |= uint64(to) << (4 * s)
	}
	return row
}

// SCTPChunks is how many chunk types there are, from 0 on, beyond which none means something.
const SCTPChunks = 15

// SCTPFirst returns the states that a connection's first packet leads to, four bits for each chunk
// type from the lowest on.
func SCTPFirst() (row uint64) {
	for chunk := range uint8(SCTPChunks) {
		row |= uint64(sctpNext[sctpEvent(chunk)][sctpNone]) << (4 * chunk)
	}
	return row
}
