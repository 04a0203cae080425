package conn

// The states of TCP (include/net/ip_vs.h, IP_VS_TCP_S_*). XDP programs use the
// same numbers.
const (
	tcpNone = iota
	tcpEstablished
	tcpSynSent
	tcpSynRecv
	tcpFinWait
	tcpTimeWait
	tcpClose
	tcpCloseWait
	tcpLastAck
	tcpListen
	tcpSynAck
	tcpStates
)

var tcpNames = [tcpStates]string{
	"NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT",
	"CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK",
}

// tcpActive has a bit for each state whose connections count as active
// (tcp_state_active_table).
const tcpActive = 1<<tcpEstablished | 1<<tcpSynSent | 1<<tcpSynRecv | 1<<tcpSynAck

// The next state, by the present one. Direct routing sees only the client's
// half of a connection, for which the kernel has a table of its own, INPUT-ONLY
// (ip_vs_proto_tcp.c, tcp_states). RST is looked at first, then SYN, FIN, ACK.
var (
	tcpOnSYN = [tcpStates]uint8{
		tcpNone: tcpSynRecv, tcpEstablished: tcpEstablished, tcpSynSent: tcpEstablished,
		tcpSynRecv: tcpSynRecv, tcpFinWait: tcpSynRecv, tcpTimeWait: tcpSynRecv,
		tcpClose: tcpSynRecv, tcpCloseWait: tcpSynRecv, tcpLastAck: tcpSynRecv,
		tcpListen: tcpSynRecv, tcpSynAck: tcpSynRecv,
	}
	tcpOnFIN = [tcpStates]uint8{
		tcpNone: tcpClose, tcpEstablished: tcpFinWait, tcpSynSent: tcpSynSent,
		tcpSynRecv: tcpTimeWait, tcpFinWait: tcpFinWait, tcpTimeWait: tcpTimeWait,
		tcpClose: tcpClose, tcpCloseWait: tcpCloseWait, tcpLastAck: tcpLastAck,
		tcpListen: tcpListen, tcpSynAck: tcpTimeWait,
	}
	tcpOnACK = [tcpStates]uint8{
		tcpNone: tcpEstablished, tcpEstablished: tcpEstablished, tcpSynSent: tcpSynSent,
		tcpSynRecv: tcpEstablished, tcpFinWait: tcpFinWait, tcpTimeWait: tcpTimeWait,
		tcpClose: tcpClose, tcpCloseWait: tcpCloseWait, tcpLastAck: tcpClose,
		tcpListen: tcpListen, tcpSynAck: tcpEstablished,
	}
	tcpOnRST = [tcpStates]uint8{
		tcpNone: tcpClose, tcpEstablished: tcpClose, tcpSynSent: tcpClose,
		tcpSynRecv: tcpSynRecv, tcpFinWait: tcpClose, tcpTimeWait: tcpClose,
		tcpClose: tcpClose, tcpCloseWait: tcpClose, tcpLastAck: tcpLastAck,
		tcpListen: tcpListen, tcpSynAck: tcpClose,
	}
)
