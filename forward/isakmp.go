package forward

import (
	"net/netip"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/svctable"
	"github.com/ulvs/ulvs/packet"
)

// ESP and AH have no ports: they go where their client's ISAKMP connection goes, which is
// UDP from port 500 to port 500 (net/netfilter/ipvs/ip_vs_proto_ah_esp.c). They open none.

const isakmpPort = 500

// isIPsec reports ESP, and AH in IPv4: in IPv6 that is an extension header, which is looked
// through (ip_vs_fill_iph_skb).
func isIPsec(proto uint8, is6 bool) bool {
	return proto == packet.ProtoESP || proto == packet.ProtoAH && !is6
}

// isakmpFlow returns the flow of the connection that a packet of ESP or AH follows, by its own.
func isakmpFlow(f *packet.Flow) packet.Flow {
	return f.With(packet.ProtoUDP, isakmpPort, isakmpPort)
}

// ipsec decides about a packet of ESP or AH, or a fragment of one: each has all that it
// takes. It changes no state, but has the connection's time begin again
// (ah_esp_conn_in_get, ah_esp_conn_schedule).
func (in *Path) ipsec(f *dataplane.Frame, p *packet.Packet, tick uint32) {
	flow := isakmpFlow(&p.Flow)
	id, found := in.find(&flow, in.conns.Hash(&flow))
	if !found {
		in.passToHost(f, p, nil)
		return
	}
	dst := in.index.dests[in.conns.Dest(id)]
	switch {
	case in.unhooked(f, dst, p):
		return
	case !dst.available && in.sysctl.ExpireNodestConn == 0:
		in.drop(f, dropDestGone)
		return
	case !dst.available:
		in.removeConn(id)
		in.passToHost(f, p, nil)
		return
	}
	in.account(dst, p)
	in.conns.Touched(id, tick)
	in.transmit(f, p, dst, methodOf(in.conns.Owner(id)))
}

// isakmpClaims returns the claims of what follows a service's ISAKMP connections.
func isakmpClaims(addr netip.Addr) []dataplane.Claim {
	claims := []dataplane.Claim{{Addr: addr, Proto: packet.ProtoESP}}
	if addr.Is4() {
		claims = append(claims, dataplane.Claim{Addr: addr, Proto: packet.ProtoAH})
	}
	return claims
}

// hasISAKMP reports whether a service has ISAKMP connections at its address.
func (s *Service) hasISAKMP() bool {
	return s.Mark == 0 && s.Protocol == ulvs.UDP && (s.Port == isakmpPort || s.Port == 0)
}

// claimsISAKMP reports whether what follows ISAKMP connections to an address is claimed.
func (ix *index) claimsISAKMP(to netip.Addr) bool {
	k := svctable.KeyOf(to, packet.ProtoUDP, isakmpPort)
	any := k
	any.Port = 0
	return ix.markISAKMP[to] || ix.Find(k) != nil || ix.Find(any) != nil ||
		ix.leaving.Len() > 0 && (ix.leaving.Find(k) != nil || ix.leaving.Find(any) != nil || ix.leavingISAKMP(to))
}

// leavingISAKMP reports whether the mark rules make ISAKMP to an address that of a service
// which is gone but for its connections.
func (ix *index) leavingISAKMP(to netip.Addr) bool {
	mark := ix.isakmpMark(to)
	return mark != 0 && ix.leaving.FindMark(mark, to.Is6()) != nil
}

// marksISAKMP reports whether the mark rules make ISAKMP to an address, from anywhere and by
// any interface, a service's.
func (ix *index) marksISAKMP(to netip.Addr) bool {
	mark := ix.isakmpMark(to)
	return mark != 0 && ix.FindMark(mark, to.Is6()) != nil
}

// isakmpMark returns the mark that the rules give ISAKMP to an address, from anywhere and by
// any interface.
func (ix *index) isakmpMark(to netip.Addr) uint32 {
	set := ix.sets[family(to.Is6())]
	if set == nil {
		return 0
	}
	client := netip.IPv4Unspecified()
	if to.Is6() {
		client = netip.IPv6Unspecified()
	}
	p := packet.Packet{Kind: packet.UDP, Proto: packet.ProtoUDP, Is6: to.Is6(), Flow: packet.NewFlow(packet.ProtoUDP,
		netip.AddrPortFrom(client, isakmpPort), netip.AddrPortFrom(to, isakmpPort))}
	return set.Mark(&fwmark.Input{Packet: &p})
}
