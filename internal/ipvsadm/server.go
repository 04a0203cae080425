package ipvsadm

import (
	"math"
	"net/netip"
	"strings"

	"github.com/ulvs/ulvs"
)

// serverOption takes an option of a real server into the line.
func (l *line) serverOption(id optionID, text string) *exit {
	d := &l.server
	number := func(low, high int64, what string) (n int64, e *exit) {
		n, ok := parseNumber(text, low, high)
		if !ok {
			e = fail("illegal %s specified", what)
		}
		return n, e
	}
	var n int64
	var e *exit
	switch id {
	case 'g':
		d.Forward = ulvs.DirectRoute
	case 'i':
		d.Forward = ulvs.Tunnel
	case 'm':
		d.Forward = ulvs.Masquerade
	case 'w':
		n, e = number(0, math.MaxInt32, "weight")
		d.Weight = int32(n)
	case 'x':
		n, e = number(0, math.MaxInt32, "u_threshold")
		d.UpperThreshold = uint32(n)
	case 'y':
		n, e = number(0, math.MaxInt32, "l_threshold")
		d.LowerThreshold = uint32(n)
	case optTunType:
		for t := range tunnelCombinations {
			if tunnelCombinations[t].name == text {
				d.TunnelType = ulvs.TunnelType(t)
				return nil
			}
		}
		e = fail("illegal tunnel type specified")
	case optTunPort:
		n, e = number(1, math.MaxUint16, "tunnel port")
		d.TunnelPort = uint16(n)
	case optTunCsum:
		d.TunnelFlags |= ulvs.TunnelChecksum
	case optTunRemCsum:
		d.TunnelFlags |= ulvs.TunnelRemoteChecksum
	}
	return e
}

// checkServer looks at a real server and its service together, and gives it the
// service's port where the forwarding method cannot change ports.
func (l *line) checkServer() *exit {
	d := &l.server
	if l.service.Mark == 0 && d.Forward != ulvs.Masquerade {
		d.Port = l.service.Port
	}
	if d.Forward != ulvs.Tunnel {
		if d.Addr.Is6() != l.family6 {
			return fail("Different address family is allowed only for tunneling servers")
		}
		if l.given&tunnelSettings != 0 {
			return fail("Tunnel options conflict with forward method")
		}
	}
	return tunnelCombinations[d.TunnelType].check("tunnel type", l.given, topicTunPort, topicTunRemCsum)
}

// checkDaemonOption checks an option of the sync daemon, which ulvs has not: a
// mistake in it is reported as the original does, the rest has no effect.
func checkDaemonOption(id optionID, text string) *exit {
	number := func(low, high int64, what string) *exit {
		if _, ok := parseNumber(text, low, high); !ok {
			return fail("illegal %s specified", what)
		}
		return nil
	}
	switch id {
	case optSyncID:
		return number(0, 255, "syncid")
	case optMcastPort:
		return number(1, 65535, "mcast-port")
	case optMcastTTL:
		return number(1, 255, "mcast-ttl")
	case optSyncMaxLen:
		return number(1, 65535-20-8, "sync-maxlen")
	}
	a, err := netip.ParseAddr(text)
	if err == nil && a.Zone() == "" && a.IsMulticast() && !a.Is4In6() {
		return nil
	}
	if strings.Contains(text, ":") {
		return fail("invalid IPv6 mcast-group `%s'", text)
	}
	return fail("invalid IPv4 mcast-group `%s'", text)
}
