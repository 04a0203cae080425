package hostmark

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/fwmark"
)

// iptables-legacy keeps a table as one run of entries: a header with the
// conditions of iptables itself, matches, a target
// (include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h,
// netfilter/x_tables.h). Chains follow one another; those of the hooks are
// found by their offsets, others begin with an entry whose target is ERROR and
// names the chain.

// layout is where the kernel keeps what in an entry.
type layout struct {
	ipv6                          bool
	addr                          int // bytes of an address
	inName, inMask, outMask       int
	proto, flags, not             int
	targetOffset, counters, first int // first: of the matches
	fragment, tos, gone           byte
}

// align is how the kernel aligns a uint64, and so entries.
func align() int {
	if runtime.GOARCH == "386" {
		return 4
	}
	return 8
}

func layoutOf(ipv6 bool) layout {
	if !ipv6 {
		return layout{addr: 4, inName: 16, inMask: 48, outMask: 64, proto: 80, flags: 82, not: 83,
			targetOffset: 88, counters: 96, first: 112, fragment: 1, gone: 2}
	}
	// Behind the header is the end of the last rule that was traced, and then
	// the counters.
	counters := (148 + align() - 1) &^ (align() - 1)
	return layout{ipv6: true, addr: 16, inName: 64, inMask: 96, outMask: 112, proto: 128, flags: 131, not: 132,
		targetOffset: 140, counters: counters, first: counters + 16, tos: 2, gone: 4}
}

// Flags that turn a condition round.
const (
	notIn          = 0x01
	notOut         = 0x02
	notTOS         = 0x04
	notSource      = 0x08
	notDestination = 0x10
	notFragment    = 0x20
	notProtocol    = 0x40
)

// blob is a legacy table as the kernel gives it out.
type blob struct {
	ipv6            bool
	first, underrun uint32 // PREROUTING's first entry, and its policy's
	// INPUT's; 0: there is none, as it never stands first.
	inputFirst, inputUnderrun uint32
	entries                   []byte
	interfaces                interfaces
}

// equal compares without the packets' counters.
func (b *blob) equal(o *blob) bool {
	if b == nil || o == nil {
		return b == o
	}
	if b.first != o.first || b.underrun != o.underrun || b.inputFirst != o.inputFirst ||
		b.inputUnderrun != o.inputUnderrun || len(b.entries) != len(o.entries) {
		return false
	}
	l := layoutOf(b.ipv6)
	for at := 0; at < len(b.entries); {
		e, err := entryAt(l, b.entries, at)
		if err != nil {
			return bytes.Equal(b.entries[at:], o.entries[at:])
		}
		x, y := b.entries[at:at+len(e)], o.entries[at:at+len(e)]
		if !bytes.Equal(x[:l.counters], y[:l.counters]) || !bytes.Equal(x[l.counters+16:], y[l.counters+16:]) {
			return false
		}
		at += len(e)
	}
	return true
}

var errLegacy = errors.New("iptables-legacy's mangle table cannot be read: its layout is unknown")

// entryAt is the entry at an offset.
func entryAt(l layout, b []byte, at int) ([]byte, error) {
	if at < 0 || at+l.first > len(b) {
		return nil, fmt.Errorf("%w: entry at %d of %d bytes", errLegacy, at, len(b))
	}
	e := b[at:]
	target, next := int(native.Uint16(e[l.targetOffset:])), int(native.Uint16(e[l.targetOffset+2:]))
	if target < l.first || target+32 > next || next > len(e) {
		return nil, fmt.Errorf("%w: entry at %d has target %d, next %d", errLegacy, at, target, next)
	}
	return e[:next], nil
}

// legacyTable is a legacy table's chains PREROUTING and INPUT, and those of one's own.
type legacyTable struct {
	prerouting, input []step
	own               table
}

// parse reads a table.
func (b *blob) parse() (t legacyTable, err error) {
	l := layoutOf(b.ipv6)
	names := map[int]string{} // chains by the offset of their first entry
	for at := 0; at < len(b.entries); {
		e, err := entryAt(l, b.entries, at)
		if err != nil {
			return t, err
		}
		at += len(e)
		if target := e[native.Uint16(e[l.targetOffset:]):]; targetName(target) == "ERROR" && len(target) > 32 {
			names[at] = text(target[32:])
		}
	}
	t.own = table{}
	scratch := fwmark.NewTable(b.ipv6)
	for at, name := range names {
		if at >= len(b.entries) { // the entry that ends the table
			continue
		}
		t.own[name], err = b.chain(l, at, -1, name, names, scratch)
		if err != nil {
			return t, err
		}
	}
	t.prerouting, err = b.chain(l, int(b.first), int(b.underrun), "PREROUTING", names, scratch)
	if err == nil && b.inputFirst > 0 {
		t.input, err = b.chain(l, int(b.inputFirst), int(b.inputUnderrun), "INPUT", names, scratch)
	}
	return t, err
}

func targetName(b []byte) string { return text(b[2:31]) }

// chain reads the rules from an offset on: to the policy's entry and with it,
// or to the next chain.
func (b *blob) chain(l layout, at, last int, name string, names map[int]string,
	scratch *fwmark.Table) (steps []step, err error) {
	for at < len(b.entries) {
		e, err := entryAt(l, b.entries, at)
		if err != nil {
			return nil, err
		}
		target := e[native.Uint16(e[l.targetOffset:]):]
		if last < 0 && targetName(target) == "ERROR" {
			break
		}
		w := &walker{condition: condition{ipv6: b.ipv6}, iptables: true, chain: name, scratch: scratch,
			interfaces: b.interfaces}
		if err := b.entry(w, l, e, at, names); err != nil {
			return nil, err
		}
		s := w.step("legacy "+strconv.FormatBool(b.ipv6)+" "+strconv.Itoa(at), "", "")
		if at == last && s.effects != nil {
			s.text = "-P " + name + " " + w.line[1]
			s.effects = slices.DeleteFunc(s.effects, func(e effect) bool { return e.kind == accepts }) // the end
		}
		steps = append(steps, s)
		if at == last {
			break
		}
		at += len(e)
	}
	if n := len(steps); last < 0 && n > 0 {
		steps = steps[:n-1] // each ends with a return that iptables does not show
	}
	return steps, nil
}

// entry reads one rule.
func (b *blob) entry(w *walker, l layout, e []byte, at int, names map[int]string) error {
	w.header(l, e)
	end := int(native.Uint16(e[l.targetOffset:]))
	for m := l.first; m < end; {
		if m+32 > end {
			return fmt.Errorf("%w: match at %d of the entry at %d", errLegacy, m, at)
		}
		size := int(native.Uint16(e[m:]))
		if size < 32 || m+size > end {
			return fmt.Errorf("%w: match at %d of the entry at %d has %d bytes", errLegacy, m, at, size)
		}
		w.module(targetName(e[m:]), e[m+31], e[m+32:m+size])
		m += size
	}
	target := e[end:]
	size := int(native.Uint16(target))
	if size < 32 || size > len(target) {
		return fmt.Errorf("%w: target of the entry at %d has %d bytes", errLegacy, at, size)
	}
	name, data := targetName(target), target[32:size]
	if name != "" {
		w.target(name, target[31], data)
		return nil
	}
	if len(data) < 4 {
		return fmt.Errorf("%w: verdict of the entry at %d is cut off", errLegacy, at)
	}
	w.standard(l, e, at, int32(native.Uint32(data)), names)
	return nil
}

// standard is a verdict, or a jump to the entry at an offset.
func (w *walker) standard(l layout, e []byte, at int, code int32, names map[int]string) {
	const xtReturn = -5
	v := &verdict{chain: names[int(code)]}
	switch {
	case code == xtReturn:
		v.code = nftReturn
	case code < 0:
		v.code = -code - 1
		v.chain = ""
	case int(code) == at+len(e) && e[l.flags]&l.gone == 0: // no target
		return
	case e[l.flags]&l.gone != 0:
		v.code = nftGoto
	default:
		v.code = nftJump
	}
	w.verdict(v)
}

// header reads the conditions of iptables itself.
func (w *walker) header(l layout, e []byte) {
	not := e[l.not]
	part := func(i int) number { return bigEndian(e[i*l.addr : (i+1)*l.addr]) }
	address := func(f fieldID, addr, mask number, not bool) {
		switch {
		case addr.and(mask) != addr: // it never is
			w.never = w.never || !not
		default:
			w.add(f, test{block: block{mask, addr}, not: not})
		}
	}
	address(source, part(0), part(2), not&notSource != 0)
	address(dest, part(1), part(3), not&notDestination != 0)

	in := e[l.inName : l.inName+16]
	mask := bigEndian(e[l.inMask : l.inMask+16])
	if mask == (number{}) && not&notIn != 0 { // ! -i +, in iptables-nft's way
		mask, in, not = ones(128), append([]byte(never), make([]byte, 16-len(never))...), not&^notIn
	}
	w.add(input, test{block: block{mask, bigEndian(in).and(mask)}, not: not&notIn != 0})
	if bytes.Count(e[l.outMask:l.outMask+16], []byte{0}) != 16 || not&notOut != 0 {
		w.unknown("-o ...")
	}
	if p := native.Uint16(e[l.proto:]); p != 0 && p < 256 {
		w.add(protocol, test{block: block{ones(8), number{0, uint64(p)}}, not: not&notProtocol != 0})
	} else if p != 0 || not&notProtocol != 0 {
		w.unknown("-p ...")
	}
	if flags := e[l.flags]; flags&l.fragment != 0 || not&notFragment != 0 {
		w.unknown("-f")
	} else if flags&l.tos != 0 || not&notTOS != 0 {
		w.unknown("-m tos ...")
	}
}

// Requests of getsockopt, the same for both families.
const (
	soGetInfo    = 64
	soGetEntries = 65
)

// legacySocket is a socket of the family, to ask the kernel through.
func legacySocket(ipv6 bool) (int, error) {
	domain := unix.AF_INET
	if ipv6 {
		domain = unix.AF_INET6
	}
	return unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
}

// readLegacy reads the table mangle through a socket.
func readLegacy(fd int, ipv6 bool) (*blob, error) {
	level := unix.SOL_IP
	if ipv6 {
		level = unix.SOL_IPV6
	}
	for range 20 {
		// Name, valid hooks, 5 first entries, 5 policies, entries, bytes.
		info := make([]byte, 84)
		copy(info, "mangle")
		switch err := sockopt(fd, level, soGetInfo, info); {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT):
			return nil, nil
		case errors.Is(err, unix.EPERM):
			return nil, fmt.Errorf("iptables-legacy: %w", errPrivileges)
		case err != nil:
			return nil, fmt.Errorf("iptables-legacy: %w", err)
		}
		size := int(native.Uint32(info[80:]))
		start := (36 + align() - 1) &^ (align() - 1) // name, bytes
		b := make([]byte, start+size)
		copy(b, "mangle")
		native.PutUint32(b[32:], uint32(size))
		err := sockopt(fd, level, soGetEntries, b)
		if errors.Is(err, unix.EAGAIN) { // it has grown or shrunk since
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("iptables-legacy: %w", err)
		}
		return &blob{ipv6: ipv6, first: native.Uint32(info[36:]), underrun: native.Uint32(info[56:]),
			inputFirst: native.Uint32(info[40:]), inputUnderrun: native.Uint32(info[60:]), entries: b[start:]}, nil
	}
	return nil, fmt.Errorf("iptables-legacy: %w", errChanged)
}
