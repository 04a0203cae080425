package ipvsadm

import (
	"net/netip"
	"strings"

	"github.com/ulvs/ulvs"
)

// parseService reads host[:port] or [IPv6 address]:port. ok is false for what
// makes no sense as a whole, a bad port too. hasPort says whether a port was
// given.
//
// The original has its ways: a bare number is never an address; a name or an
// IPv4 address in brackets loses the port that follows the bracket; a name is
// looked up for its IPv4 address only.
func (r *runner) parseService(s string, p ulvs.Protocol) (a netip.Addr, port uint16, hasPort, ok bool) {
	if strings.Trim(s, "0123456789") == "" {
		return a, 0, false, false
	}
	portText := ""
	if s[0] == '[' {
		inner, after, closed := strings.Cut(s[1:], "]")
		if !closed || !strings.HasPrefix(after, ":") {
			return a, 0, false, false
		}
		s, portText, hasPort = inner, after[1:], true
	}
	if a, ok = parsePton6(s); !ok {
		hasPort = false
		if i := strings.LastIndexByte(s, ':'); i >= 0 {
			s, portText, hasPort = s[:i], s[i+1:], true
		}
		if a, ok = r.parseHost(s); !ok {
			return a, 0, false, false
		}
	}
	if !hasPort {
		return a, 0, false, true
	}
	if n, isNumber := parseNumber(portText, 0, 0xffff); isNumber {
		return a, uint16(n), true, true
	}
	if p != ulvs.TCP && p != ulvs.UDP && p != ulvs.SCTP {
		return a, 0, true, false
	}
	port, ok = r.names.Port(portText, p)
	return a, port, true, ok
}

// parseHost reads an IPv4 address or a name that has one.
func (r *runner) parseHost(s string) (netip.Addr, bool) {
	if a, ok := parseAton(s); ok {
		return a, true
	}
	if s == "" {
		return netip.Addr{}, false
	}
	return r.names.Host(s)
}

// Lengths of the buffers that the original prints through: what is longer is
// cut.
const (
	maxName        = 59 // host:port
	maxServiceName = 33 // an IPv4 service in a listing, with its protocol
	maxDestName    = 28 // an IPv4 real server in a listing
)

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// name is host:port as listings have it, by number or by name.
func (r *runner) name(ap netip.AddrPort, p ulvs.Protocol, numeric bool) string {
	host, port := "", ""
	if !numeric {
		host, _ = r.names.Addr(ap.Addr())
		if p == ulvs.TCP || p == ulvs.UDP || p == ulvs.SCTP {
			port, _ = r.names.Service(ap.Port(), p)
		}
	}
	if host == "" {
		host = formatAddr(ap.Addr())
	}
	if port == "" {
		port = decimal(uint64(ap.Port()))
	}
	if ap.Addr().Is6() {
		host = "[" + host + "]"
	}
	return cut(host+":"+port, maxName)
}
