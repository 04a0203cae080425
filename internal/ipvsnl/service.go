package ipvsnl

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/sched"
)

// keyOf finds which service is meant, and the attributes of it
// (ip_vs_genl_parse_service without the full entry).
func keyOf(value []byte) (key ulvs.ServiceKey, found [][]byte, err error) {
	if value == nil {
		return key, nil, unix.EINVAL
	}
	if found, err = parse(value, svcRules[:]); err != nil {
		return key, nil, unix.EINVAL
	}
	byAddr := found[svcPort] != nil && found[svcProtocol] != nil && found[svcAddr] != nil
	if found[svcAF] == nil || found[svcMark] == nil && !byAddr {
		return key, nil, unix.EINVAL
	}
	af := order.Uint16(found[svcAF])
	if af != unix.AF_INET && af != unix.AF_INET6 {
		return key, nil, unix.EAFNOSUPPORT
	}
	switch {
	case found[svcMark] == nil:
		key.Protocol, key.Addr = protocolOf(order.Uint16(found[svcProtocol])), addrOf(found[svcAddr], af)
		key.Port = binary.BigEndian.Uint16(found[svcPort])
	case order.Uint32(found[svcMark]) == 0: // of no service
		key.Addr = addrOf(nil, af)
	default:
		key.Mark, key.IPv6 = order.Uint32(found[svcMark]), af == unix.AF_INET6
	}
	return key, found, nil
}

// protocolOf is a protocol of which there is no service where the number is larger than any.
func protocolOf(n uint16) ulvs.Protocol {
	if n > math.MaxUint8 {
		return math.MaxUint8
	}
	return ulvs.Protocol(n)
}

// addrOf is an address of a family; what is missing in it is zero.
func addrOf(value []byte, af uint16) netip.Addr {
	var b [addrLen]byte
	copy(b[:], value)
	if af == unix.AF_INET6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

// serviceOf is a whole service as it is to be. It goes on with the flags of the one that there
// is, where the mask says so.
func serviceOf(to ulvs.Control, value []byte) (s ulvs.Service, err error) {
	key, found, err := keyOf(value)
	if err != nil {
		return s, err
	}
	if found[svcScheduler] == nil || found[svcFlags] == nil || found[svcTimeout] == nil || found[svcNetmask] == nil {
		return s, unix.EINVAL
	}
	var given [flagsLen]byte
	copy(given[:], found[svcFlags])
	flags, mask := order.Uint32(given[:]), order.Uint32(given[4:])
	flags &= mask
	if mask != math.MaxUint32 {
		if is, err := to.Service(key); err == nil {
			flags |= flagsOf(&is.Service) &^ mask
		}
	}
	s = serviceWith(key, textOf(found[svcScheduler]), flags)
	if found[svcEngine] != nil {
		s.Persistence.Engine = textOf(found[svcEngine])
	}
	return s, persist(&s, flags, order.Uint32(found[svcTimeout]), found[svcNetmask])
}

// serviceWith is a service with what its flags say.
func serviceWith(key ulvs.ServiceKey, scheduler string, flags uint32) ulvs.Service {
	s := ulvs.Service{ServiceKey: key, Scheduler: scheduler, OnePacket: flags&flagOnePacket != 0}
	for _, f := range schedFlags {
		if flags&f.number != 0 {
			s.SchedFlags |= f.flag
		}
	}
	return s
}

// schedFlags are the flags that mean what the scheduler says.
var schedFlags = []struct {
	number uint32
	flag   sched.Flags
}{{flagSched1, sched.Flag1}, {flagSched2, sched.Flag2}, {flagSched3, sched.Flag3}}

// persist gives a service its persistence. IPv6's netmask is a prefix's length, as a number.
func persist(s *ulvs.Service, flags, timeout uint32, netmask []byte) error {
	ones := order.Uint32(netmask)
	if s.Is6() && (ones < 1 || ones > 128) {
		return unix.EINVAL
	}
	if flags&flagPersistent == 0 {
		return nil
	}
	s.Persistence.Timeout = time.Duration(timeout) * time.Second
	if !s.Is6() {
		s.Persistence.Netmask = netip.AddrFrom4([4]byte(netmask[:4]))
		return nil
	}
	s.Persistence.Netmask = mask6(int(ones))
	return nil
}

// mask6 is the mask of a prefix.
func mask6(ones int) netip.Addr {
	all := netip.AddrFrom16([16]byte{
		255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	return netip.PrefixFrom(all, ones).Masked().Addr()
}

// flagsOf are a service's flags as the kernel lists them: it is in the table.
func flagsOf(s *ulvs.Service) uint32 {
	flags := uint32(flagHashed)
	if s.Persistence.Timeout != 0 {
		flags |= flagPersistent
	}
	if s.OnePacket {
		flags |= flagOnePacket
	}
	for _, f := range schedFlags {
		if s.SchedFlags&f.flag != 0 {
			flags |= f.number
		}
	}
	return flags
}

// netmaskOf is a service's netmask as it was given, or as programs give it where none is said.
func netmaskOf(s *ulvs.Service) []byte {
	mask := s.Persistence.Netmask
	if !s.Is6() {
		b := [4]byte{255, 255, 255, 255}
		if mask.Is4() {
			b = mask.As4()
		}
		return b[:]
	}
	ones := 128
	if mask.Is6() {
		for ones = 0; ones < 128 && mask.As16()[ones/8]>>(7-ones%8)&1 != 0; ones++ {
		}
	}
	return order.AppendUint32(nil, uint32(ones))
}

// encodeService encodes a service as it stands (ip_vs_genl_fill_service).
func encodeService(s *ulvs.ServiceStatus) ([]byte, error) {
	return nest(attrService, func(e *netlink.AttributeEncoder) {
		af := uint16(unix.AF_INET)
		if s.Is6() {
			af = unix.AF_INET6
		}
		e.Uint16(svcAF, af)
		if s.Mark != 0 {
			e.Uint32(svcMark, s.Mark)
		} else {
			e.Uint16(svcProtocol, uint16(s.Protocol))
			e.Bytes(svcAddr, union(s.Addr))
			e.Bytes(svcPort, binary.BigEndian.AppendUint16(nil, s.Port))
		}
		e.String(svcScheduler, s.Scheduler)
		if s.Persistence.Engine != "" {
			e.String(svcEngine, s.Persistence.Engine)
		}
		e.Bytes(svcFlags, order.AppendUint32(order.AppendUint32(nil, flagsOf(&s.Service)), math.MaxUint32))
		e.Uint32(svcTimeout, uint32(s.Persistence.Timeout/time.Second))
		e.Bytes(svcNetmask, netmaskOf(&s.Service))
		encodeStats(e, svcStats, svcStats64, &s.Stats, &s.Rate)
	})
}

// union is an address in the kernel's 16 bytes (union nf_inet_addr).
func union(a netip.Addr) []byte {
	var b [addrLen]byte
	if a.IsValid() {
		copy(b[:], a.AsSlice())
	}
	return b[:]
}

// nest encodes an attribute that holds others, without the flag that says so: the kernel
// gives IPVS's none (nla_nest_start_noflag).
func nest(typ uint16, fill func(*netlink.AttributeEncoder)) ([]byte, error) {
	outer := netlink.NewAttributeEncoder()
	encodeNested(outer, typ, fill)
	return outer.Encode()
}

func encodeNested(e *netlink.AttributeEncoder, typ uint16, fill func(*netlink.AttributeEncoder)) {
	e.Do(typ, func() ([]byte, error) {
		inner := netlink.NewAttributeEncoder()
		fill(inner)
		return inner.Encode()
	})
}

func newService(to ulvs.Control, given [][]byte) error {
	s, err := serviceOf(to, given[attrService])
	if err != nil {
		return err
	}
	return to.AddService(s)
}

func setService(to ulvs.Control, given [][]byte) error {
	s, err := serviceOf(to, given[attrService])
	if err != nil {
		return err
	}
	return to.EditService(s)
}

func delService(to ulvs.Control, given [][]byte) error {
	key, _, err := keyOf(given[attrService])
	if err != nil {
		return err
	}
	return to.DeleteService(key)
}

func getService(to ulvs.Control, given [][]byte) ([]byte, error) {
	key, _, err := keyOf(given[attrService])
	if err != nil {
		return nil, err
	}
	s, err := to.Service(key)
	if err != nil {
		return nil, err
	}
	return encodeService(&s)
}

func dumpServices(to ulvs.Control, _ []byte) (all [][]byte, err error) {
	list, err := to.Services()
	for i := range list {
		one, err := encodeService(&list[i])
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, err
}

func zero(to ulvs.Control, given [][]byte) error {
	if given[attrService] == nil {
		return to.ZeroAll()
	}
	key, _, err := keyOf(given[attrService])
	if err != nil {
		return err
	}
	return to.Zero(key)
}

func flush(to ulvs.Control, _ [][]byte) error { return to.Clear() }
