package ipvsnl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// The older socket options are those from FirstOption to LastOption of level IPPROTO_IP, on any
// raw socket. They know IPv4 alone (IP_VS_BASE_CTL).
const (
	FirstOption = 1152
	LastOption  = FirstOption + 15
)

// What is set (IP_VS_SO_SET_*).
const (
	setAdd         = FirstOption + 2
	setEdit        = FirstOption + 3
	setDel         = FirstOption + 4
	setFlush       = FirstOption + 5
	setAddDest     = FirstOption + 7
	setDelDest     = FirstOption + 8
	setEditDest    = FirstOption + 9
	setTimeout     = FirstOption + 10
	setStartDaemon = FirstOption + 11
	setStopDaemon  = FirstOption + 12
	setZero        = FirstOption + 15
)

// The lengths of what is handed over (struct ip_vs_service_user and the like).
const (
	serviceUser  = 44
	destUser     = 24
	serviceEntry = 104
	destEntry    = 96
	servicesHead = 8
	destsHead    = 24
	timeoutUser  = 12
	daemonUser   = 24
	infoUser     = 12
	versionLen   = 64
)

// setLengths is how long the values are that are set; of others it is 0.
var setLengths = map[int]int{
	setAdd: serviceUser, setEdit: serviceUser, setDel: serviceUser, setZero: serviceUser,
	setAddDest: serviceUser + destUser, setDelDest: serviceUser + destUser, setEditDest: serviceUser + destUser,
	setTimeout: timeoutUser, setStartDaemon: daemonUser, setStopDaemon: daemonUser,
}

// SetOption is setsockopt (do_ip_vs_set_ctl). The value need not be longer than 128 bytes, if
// length is that of the whole. admin is Caller.Admin. The error is 0 or an errno.
func SetOption(to ulvs.Control, admin bool, option int, value []byte, length int) unix.Errno {
	switch {
	case !admin:
		return unix.EPERM
	case option < FirstOption || option > LastOption || length != setLengths[option] || len(value) < length:
		return unix.EINVAL
	case option == setStartDaemon || option == setStopDaemon:
		return unix.EOPNOTSUPP
	case option == setFlush:
		return errnoOf(to.Clear())
	case option == setTimeout:
		seconds := func(at int) time.Duration { return time.Duration(int32(order.Uint32(value[at:]))) * time.Second }
		return errnoOf(to.SetTimeouts(ulvs.Timeouts{TCP: seconds(0), TCPFin: seconds(4), UDP: seconds(8)}))
	case length == 0:
		return unix.EINVAL
	}
	return setTable(to, option, value)
}

// setTable changes services and real servers.
func setTable(to ulvs.Control, option int, value []byte) unix.Errno {
	protocol, addr, port, mark := named(value)
	if option == setZero && mark == 0 && bytes.Equal(addr, make([]byte, 4)) && port == 0 {
		return errnoOf(to.ZeroAll())
	}
	name := value[16:32]
	if (option == setAdd || option == setEdit) && bytes.IndexByte(name, 0) < 0 {
		return unix.EINVAL
	}
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
	default:
		return unix.EFAULT
	}
	key := optionKey(protocol, addr, port, mark)
	is, err := to.Service(key)
	if option == setAdd && err == nil {
		return unix.EEXIST
	}
	if option != setAdd && (err != nil || mark != 0 && protocol != unix.IPPROTO_TCP) {
		return unix.ESRCH
	}
	switch option {
	case setAdd, setEdit:
		s := serviceWith(key, textOf(name), order.Uint32(value[32:]))
		if err := persist(&s, order.Uint32(value[32:]), order.Uint32(value[36:]), value[40:44]); err != nil {
			return errnoOf(err)
		}
		if option == setAdd {
			return errnoOf(to.AddService(s))
		}
		s.Persistence.Engine = is.Persistence.Engine // the options have no word for it
		return errnoOf(to.EditService(s))
	case setDel:
		return errnoOf(to.DeleteService(key))
	case setZero:
		return errnoOf(to.Zero(key))
	}
	d := optionDest(value[serviceUser:])
	switch option {
	case setAddDest:
		return errnoOf(to.AddDestination(key, d))
	case setEditDest:
		return errnoOf(to.EditDestination(key, d))
	}
	return errnoOf(to.DeleteDestination(key, d.AddrPort()))
}

// named is what names a service at the beginning of a value.
func named(value []byte) (protocol uint16, addr []byte, port uint16, mark uint32) {
	return order.Uint16(value), value[4:8], binary.BigEndian.Uint16(value[8:]), order.Uint32(value[12:])
}

func optionKey(protocol uint16, addr []byte, port uint16, mark uint32) ulvs.ServiceKey {
	if mark != 0 {
		return ulvs.ServiceKey{Mark: mark}
	}
	return ulvs.ServiceKey{Protocol: protocolOf(protocol), Addr: netip.AddrFrom4([4]byte(addr)), Port: port}
}

func optionDest(value []byte) ulvs.Destination {
	return ulvs.Destination{Addr: netip.AddrFrom4([4]byte(value)), Port: binary.BigEndian.Uint16(value[4:]),
		Forward: forwardOf(order.Uint32(value[8:])), Weight: int32(order.Uint32(value[12:])),
		UpperThreshold: order.Uint32(value[16:]), LowerThreshold: order.Uint32(value[20:])}
}

// What is asked for (IP_VS_SO_GET_*).
const (
	getVersion = FirstOption + iota
	getInfoOption
	getServices
	getServiceOption
	getDests
	_
	getTimeout
	getDaemon
)

// getLengths is how long the value has to be at least.
var getLengths = map[int]int{
	getVersion: versionLen, getInfoOption: infoUser, getServices: servicesHead, getServiceOption: serviceEntry,
	getDests: destsHead, getTimeout: timeoutUser, getDaemon: 2 * daemonUser,
}

// GetOption is getsockopt (do_ip_vs_get_ctl). value is what the caller's memory has, of which 128
// bytes are enough, and length how much that is. answer is written over it from its beginning on,
// and size is the length that the caller is told. errno is 0 or says what was wrong.
func GetOption(to ulvs.Control, admin bool, option int, value []byte, length int) (answer []byte, size int,
	errno unix.Errno) {
	least, is := getLengths[option]
	switch {
	case option < FirstOption || option > getDaemon:
		return nil, 0, unix.ENOPROTOOPT // which is netfilter's answer, nf_sockopt_find
	case !admin:
		return nil, 0, unix.EPERM
	case !is || length < least || len(value) < least:
		return nil, 0, unix.EINVAL
	}
	answer, err := get(to, option, value, length)
	if err != nil {
		return nil, 0, errnoOf(err)
	}
	if option == getVersion {
		length = len(answer)
	}
	return answer, length, 0
}

func get(to ulvs.Control, option int, value []byte, length int) ([]byte, error) {
	switch option {
	case getVersion:
		text, size, err := to.Version()
		return append(fmt.Appendf(nil, "IP Virtual Server version %s (size=%d)", text, size), 0), err
	case getInfoOption:
		code, size, err := info(to)
		if err != nil {
			return nil, err
		}
		list, err := services4(to)
		return words(code, size, uint32(len(list))), err
	case getServices:
		return entries(to, int(order.Uint32(value)), length)
	case getServiceOption:
		s, err := to.Service(optionKey(named(value)))
		if err != nil {
			return nil, err
		}
		return appendEntry(nil, &s), nil
	case getDests:
		return destEntries(to, value, length)
	case getTimeout:
		t, err := to.Timeouts()
		return words(uint32(t.TCP/time.Second), uint32(t.TCPFin/time.Second), uint32(t.UDP/time.Second)), err
	}
	return make([]byte, 2*daemonUser), nil // of no sync daemon
}

func words(list ...uint32) (b []byte) {
	for _, w := range list {
		b = order.AppendUint32(b, w)
	}
	return b
}

// services4 are the services that the options know of.
func services4(to ulvs.Control) (list []ulvs.ServiceStatus, err error) {
	all, err := to.Services()
	for _, s := range all {
		if !s.Is6() {
			list = append(list, s)
		}
	}
	return list, err
}

// entries lists the first n services.
func entries(to ulvs.Control, n, length int) ([]byte, error) {
	if n < 0 || n > math.MaxInt32/serviceEntry || length != servicesHead+n*serviceEntry {
		return nil, unix.EINVAL
	}
	list, err := services4(to)
	b := append(words(uint32(n)), 0, 0, 0, 0)
	for i := range min(n, len(list)) {
		b = appendEntry(b, &list[i])
	}
	return b, err
}

// destEntries lists the first real servers of a service, of its own family.
func destEntries(to ulvs.Control, value []byte, length int) ([]byte, error) {
	n := int(order.Uint32(value[16:]))
	if n > math.MaxInt32/destEntry || length != destsHead+n*destEntry {
		return nil, unix.EINVAL
	}
	s, err := to.Service(optionKey(named(value)))
	if err != nil {
		return nil, err
	}
	b := append([]byte(nil), value[:destsHead]...)
	for i := range s.Destinations {
		if d := &s.Destinations[i]; n > 0 && d.Addr.Is4() {
			b = appendDestEntry(b, d)
			n--
		}
	}
	return b, nil
}

// appendEntry is struct ip_vs_service_entry.
func appendEntry(b []byte, s *ulvs.ServiceStatus) []byte {
	addr, protocol := [4]byte{}, uint16(unix.IPPROTO_TCP)
	if s.Mark == 0 {
		addr, protocol = s.Addr.As4(), uint16(s.Protocol)
	}
	b = append(order.AppendUint16(b, protocol), 0, 0)
	b = append(b, addr[:]...)
	b = append(binary.BigEndian.AppendUint16(b, s.Port), 0, 0)
	b = order.AppendUint32(b, s.Mark)
	var name [nameMax + 1]byte
	copy(name[:nameMax], s.Scheduler)
	b = append(b, name[:]...)
	b = append(b, words(flagsOf(&s.Service), uint32(s.Persistence.Timeout/time.Second))...)
	b = append(b, netmaskOf(&s.Service)...)
	b = order.AppendUint32(b, uint32(len(s.Destinations)))
	return appendStats(b, &s.Stats, &s.Rate)
}

// appendDestEntry is struct ip_vs_dest_entry.
func appendDestEntry(b []byte, d *ulvs.DestinationStatus) []byte {
	addr := d.Addr.As4()
	b = append(b, addr[:]...)
	b = append(binary.BigEndian.AppendUint16(b, d.Port), 0, 0)
	b = append(b, words(optionFlags(d.Forward), uint32(d.Weight), d.UpperThreshold, d.LowerThreshold,
		d.ActiveConns, d.InactConns, d.PersistConns, 0)...)
	return appendStats(b, &d.Stats, &d.Rate)
}

// optionFlags are the flags of a real server's connections, which are shown whole
// (__ip_vs_update_dest; IP_VS_CONN_F_INACTIVE, IP_VS_CONN_F_NOOUTPUT).
func optionFlags(m ulvs.ForwardMethod) uint32 {
	const inactive, noOutput = 0x100, 0x80
	flags := numberOf(m) | inactive
	if m != ulvs.Masquerade {
		flags |= noOutput
	}
	return flags
}

// appendStats is struct ip_vs_stats_user.
func appendStats(b []byte, s *ulvs.Stats, r *ulvs.Rate) []byte {
	b = append(b, words(uint32(s.Conns), uint32(s.InPkts), uint32(s.OutPkts), 0)...)
	b = order.AppendUint64(order.AppendUint64(b, s.InBytes), s.OutBytes)
	return append(b, words(uint32(r.CPS), uint32(r.InPPS), uint32(r.OutPPS), uint32(r.InBPS), uint32(r.OutBPS), 0)...)
}
