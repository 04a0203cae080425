package ipvsnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// destOf is a real server, by its address and port, or with full as it is to be
// (ip_vs_genl_parse_dest, ip_vs_genl_set_cmd).
func destOf(value []byte, key ulvs.ServiceKey, full bool) (d ulvs.Destination, err error) {
	if value == nil {
		return d, unix.EINVAL
	}
	found, err := parse(value, destRules[:])
	if err != nil || found[destAddr] == nil || found[destPort] == nil {
		return d, unix.EINVAL
	}
	af := uint16(unix.AF_INET)
	if key.Is6() {
		af = unix.AF_INET6
	}
	own := af
	if found[destAF] != nil {
		if given := order.Uint16(found[destAF]); given != 0 {
			own = given
		}
	}
	if full {
		if found[destForward] == nil || found[destWeight] == nil || found[destUpper] == nil || found[destLower] == nil {
			return d, unix.EINVAL
		}
		d.Forward = forwardOf(order.Uint32(found[destForward]))
		d.Weight = int32(order.Uint32(found[destWeight]))
		d.UpperThreshold, d.LowerThreshold = order.Uint32(found[destUpper]), order.Uint32(found[destLower])
		if v := found[destTunType]; v != nil {
			d.TunnelType = ulvs.TunnelType(v[0])
		}
		if v := found[destTunPort]; v != nil {
			d.TunnelPort = binary.BigEndian.Uint16(v)
		}
		if v := found[destTunFlags]; v != nil {
			d.TunnelFlags = ulvs.TunnelFlags(order.Uint16(v))
		}
	}
	if own != unix.AF_INET && own != unix.AF_INET6 {
		return d, unix.EAFNOSUPPORT
	}
	if own != af && full && d.Forward != ulvs.Tunnel {
		return d, unix.EINVAL
	}
	d.Addr, d.Port = addrOf(found[destAddr], own), binary.BigEndian.Uint16(found[destPort])
	return d, nil
}

// forwards are the methods by the kernel's numbers.
var forwards = [...]ulvs.ForwardMethod{
	forwardMasq: ulvs.Masquerade, forwardLocal: ulvs.Local, forwardTunnel: ulvs.Tunnel, forwardRoute: ulvs.DirectRoute,
}

// forwardOf is the method of a number. One that has no name is not a method that forwards.
func forwardOf(n uint32) ulvs.ForwardMethod {
	if n &= forwardMask; n < uint32(len(forwards)) {
		return forwards[n]
	}
	return ulvs.ForwardMethod(n)
}

func numberOf(m ulvs.ForwardMethod) uint32 {
	for n, is := range forwards {
		if is == m {
			return uint32(n)
		}
	}
	return uint32(m)
}

// encodeDest encodes a real server as it stands (ip_vs_genl_fill_dest).
func encodeDest(d *ulvs.DestinationStatus) ([]byte, error) {
	return nest(attrDest, func(e *netlink.AttributeEncoder) {
		e.Bytes(destAddr, union(d.Addr))
		e.Bytes(destPort, binary.BigEndian.AppendUint16(nil, d.Port))
		e.Uint32(destForward, numberOf(d.Forward))
		e.Uint32(destWeight, uint32(d.Weight))
		e.Uint8(destTunType, uint8(d.TunnelType))
		e.Bytes(destTunPort, binary.BigEndian.AppendUint16(nil, d.TunnelPort))
		e.Uint16(destTunFlags, uint16(d.TunnelFlags))
		e.Uint32(destUpper, d.UpperThreshold)
		e.Uint32(destLower, d.LowerThreshold)
		e.Uint32(destActive, d.ActiveConns)
		e.Uint32(destInactive, d.InactConns)
		e.Uint32(destPersistent, d.PersistConns)
		e.Uint16(destAF, familyOf(d.Addr))
		encodeStats(e, destStats, destStats64, &d.Stats, &d.Rate)
	})
}

func familyOf(a netip.Addr) uint16 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// destChange finds a service and a real server, which is not looked at where there is no such
// service.
func destChange(to ulvs.Control, given [][]byte, full bool) (key ulvs.ServiceKey, d ulvs.Destination, err error) {
	if key, _, err = keyOf(given[attrService]); err != nil {
		return key, d, err
	}
	if _, err = to.Service(key); err != nil {
		return key, d, err
	}
	d, err = destOf(given[attrDest], key, full)
	return key, d, err
}

func newDest(to ulvs.Control, given [][]byte) error {
	key, d, err := destChange(to, given, true)
	if err != nil {
		return err
	}
	return to.AddDestination(key, d)
}

func setDest(to ulvs.Control, given [][]byte) error {
	key, d, err := destChange(to, given, true)
	if err != nil {
		return err
	}
	return to.EditDestination(key, d)
}

func delDest(to ulvs.Control, given [][]byte) error {
	key, d, err := destChange(to, given, false)
	if err != nil {
		return err
	}
	return to.DeleteDestination(key, d.AddrPort())
}

// dumpDests lists the real servers of a service. One that is not there, or not described, has
// none (ip_vs_genl_dump_dests).
func dumpDests(to ulvs.Control, given []byte) (all [][]byte, err error) {
	found, err := parse(given, cmdRules[:])
	if err != nil {
		return nil, nil
	}
	key, _, err := keyOf(found[attrService])
	if err != nil {
		return nil, nil
	}
	s, err := to.Service(key)
	if err != nil {
		if errnoOf(err) == unix.ESRCH {
			err = nil
		}
		return nil, err
	}
	for i := range s.Destinations {
		one, err := encodeDest(&s.Destinations[i])
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}
