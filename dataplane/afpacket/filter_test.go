package afpacket

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/ulvs/ulvs/dataplane"
)

// sides are both filters, as far as they tell frames apart. (The VM knows no packet type.)
type sides struct{ syns, others *bpf.VM }

func newSides(t testing.TB) (s sides) {
	t.Helper()
	none := len(ours(dataplane.MAC{}))
	for opening, vm := range map[bool]**bpf.VM{true: &s.syns, false: &s.others} {
		var err error
		if *vm, err = bpf.NewVM(receiveFilter(dataplane.MAC{}, opening)[none:]); err != nil {
			t.Fatal(err)
		}
		for _, mac := range []dataplane.MAC{{}, {2, 1}} {
			if _, err := bpf.Assemble(receiveFilter(mac, opening)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// opens says which ring a frame goes to. It must be one.
func (s sides) opens(t testing.TB, frame []byte) bool {
	t.Helper()
	a, err := s.syns.Run(frame)
	b, err2 := s.others.Run(frame)
	if err != nil || err2 != nil || a > 0 == (b > 0) {
		t.Fatalf("the ring of SYNs takes %d bytes, the other one %d (%v, %v): % x", a, b, err, err2, frame)
	}
	return a > 0
}

// looksOpening is what the filters are to say, slowly.
func looksOpening(f []byte) bool {
	be := binary.BigEndian
	if len(f) < 48 || len(f) > 1920 {
		return false
	}
	at := 14
	for n := 0; n < 2; n++ {
		if t := be.Uint16(f[at-2:]); t == 0x8100 || t == 0x88a8 || t == 0x9100 {
			at += 4
		}
	}
	kind := be.Uint16(f[at-2:])
	ip := f[at:]
	var proto byte
	switch kind {
	case 0x0800:
		if len(ip) < 20 || be.Uint16(ip[6:])&0x1fff != 0 {
			return false
		}
		proto = ip[9]
		ip = ip[min(len(ip), int(ip[0]&15)*4):]
	case 0x86dd:
		if len(ip) < 40 {
			return false
		}
		proto, ip = ip[6], ip[40:]
		rounds := [4][]byte{}
		for range rounds {
			// As the program goes through them: hop-by-hop, routing, destination, fragment.
			for _, is := range []byte{0, 43, 60, 44} {
				if proto != is {
					continue
				}
				if len(ip) < 8 || is == 44 && be.Uint16(ip[2:])&0xfff8 != 0 {
					return false
				}
				size := 8
				if is != 44 {
					size += 8 * int(ip[1])
				}
				proto, ip = ip[0], ip[min(len(ip), size):]
			}
		}
	default:
		return false
	}
	switch proto {
	case 6:
		return len(ip) >= 14 && ip[13]&2 != 0 && ip[13]&4 == 0
	case 132:
		return len(ip) >= 13 && ip[12] == 1
	}
	return false
}

const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	_
	ece
	cwr
)

// tcpHeader has the flags given, options and data.
func tcpHeader(flags byte, options, data int) []byte {
	h := make([]byte, 20+options, 20+options+data)
	h[0], h[1], h[3] = 0x10, 1, 80
	h[12], h[13] = byte(20+options)/4<<4, flags
	return append(h, make([]byte, data)...)
}

// ether puts link addresses and tags in front of a packet.
func ether(etherType uint16, packet []byte, tags ...uint16) []byte {
	f := append(append([]byte(nil), macOf(director)...), macOf(client)...)
	for _, t := range tags {
		f = append(f, byte(t>>8), byte(t), 0, 5)
	}
	return append(append(f, byte(etherType>>8), byte(etherType)), packet...)
}

// ip4 is a packet of IPv4 from the client to the virtual address, with options.
func ip4(proto byte, fragment uint16, options int, payload []byte) []byte {
	h := make([]byte, 20+options)
	h[0], h[8], h[9] = 0x40|byte(20+options)/4, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[6:], fragment)
	copy(h[12:], []byte{10, 8, 0, 1})
	copy(h[16:], virtual4.AsSlice())
	for i := 20; i < len(h); i++ {
		h[i] = 1 // no operation
	}
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return append(h, payload...)
}

// ip6 is a packet of IPv6 with extension headers: of each its kind, then its bytes.
func ip6(proto byte, payload []byte, headers ...[]byte) []byte {
	var body []byte
	next := proto
	for i := len(headers) - 1; i >= 0; i-- {
		h := append([]byte(nil), headers[i]...)
		kind := h[0]
		h[0] = next
		next, body = kind, append(h, body...)
	}
	body = append(body, payload...)
	h := make([]byte, 40, 40+len(body))
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], []byte{0xfd, 8, 15: 1})
	copy(h[24:], virtual6.AsSlice())
	return append(h, body...)
}

type openingCase struct {
	name  string
	frame []byte
	want  bool
}

func openingCases() []openingCase {
	v4 := func(flags byte) []byte { return ether(0x0800, ip4(6, 0, 0, tcpHeader(flags, 0, 0))) }
	init := append(make([]byte, 12), 1, 0, 0, 20)
	data := append(make([]byte, 12), 0, 3, 0, 20)
	hop, dst := []byte{0, 0, 1, 4, 0, 0, 0, 0}, append([]byte{60, 2}, make([]byte, 22)...)
	first, later := []byte{44, 0, 0, 1, 0, 0, 0, 1}, []byte{44, 0, 0, 8, 0, 0, 0, 1}
	return []openingCase{
		{"SYN", v4(syn), true},
		{"SYN with ECN", v4(syn | ece | cwr), true},
		{"SYN+ACK, which active FTP opens with", v4(syn | ack), true},
		{"SYN+FIN", v4(syn | fin), true},
		{"SYN+RST", v4(syn | rst), false},
		{"ACK", v4(ack), false},
		{"data", v4(psh | ack), false},
		{"RST", v4(rst), false},
		{"FIN", v4(fin | ack), false},
		{"no flags", v4(0), false},
		{"SYN with TCP's options", ether(0x0800, ip4(6, 0, 0, tcpHeader(syn, 40, 0))), true},
		{"SYN with IP's options", ether(0x0800, ip4(6, 0, 40, tcpHeader(syn, 20, 0))), true},
		{"ACK with IP's options", ether(0x0800, ip4(6, 0, 40, tcpHeader(ack, 20, 0))), false},
		{"SYN with data", ether(0x0800, ip4(6, 0, 0, tcpHeader(syn, 20, 1400))), true},
		{"SYN with more data than a slot has room for", ether(0x0800, ip4(6, 0, 0, tcpHeader(syn, 20, 8000))), false},
		{"SYN, don't fragment", ether(0x0800, ip4(6, 0x4000, 0, tcpHeader(syn, 0, 0))), true},
		{"SYN, first fragment", ether(0x0800, ip4(6, 0x2000, 0, tcpHeader(syn, 20, 0))), true},
		{"later fragment", ether(0x0800, ip4(6, 3, 0, tcpHeader(syn, 20, 0))), false},
		{"fragment that ends before the flags", ether(0x0800, ip4(6, 0x2000, 0, tcpHeader(syn, 0, 0)[:8])), false},
		{"SYN with one tag in the frame", ether(0x0800, ip4(6, 0, 0, tcpHeader(syn, 0, 0)), 0x8100), true},
		{"SYN with two", ether(0x0800, ip4(6, 0, 0, tcpHeader(syn, 0, 0)), 0x88a8, 0x9100), true},
		{"SYN with three", ether(0x0800, ip4(6, 0, 0, tcpHeader(syn, 0, 0)), 0x8100, 0x8100, 0x8100), false},
		{"ACK with a tag", ether(0x0800, ip4(6, 0, 0, tcpHeader(ack, 0, 0)), 0x8100), false},
		{"IPv6 SYN", ether(0x86dd, ip6(6, tcpHeader(syn, 0, 0))), true},
		{"IPv6 ACK", ether(0x86dd, ip6(6, tcpHeader(ack, 0, 0))), false},
		{"IPv6 SYN with a tag", ether(0x86dd, ip6(6, tcpHeader(syn, 0, 0)), 0x8100), true},
		{"IPv6 SYN behind hop-by-hop", ether(0x86dd, ip6(6, tcpHeader(syn, 0, 0), hop)), true},
		{"IPv6 SYN behind four headers", ether(0x86dd, ip6(6, tcpHeader(syn, 0, 0), hop, dst, dst, first)), true},
		{"IPv6 ACK behind four headers", ether(0x86dd, ip6(6, tcpHeader(ack, 0, 0), hop, dst, dst, first)), false},
		{"IPv6 SYN, first fragment", ether(0x86dd, ip6(6, tcpHeader(syn, 0, 0), first)), true},
		{"IPv6 later fragment", ether(0x86dd, ip6(6, tcpHeader(syn, 0, 0), later)), false},
		{"IPv6 with a header that is longer than the frame", ether(0x86dd, ip6(6, tcpHeader(syn, 0, 0), []byte{60, 255, 0, 0, 0, 0, 0, 0})), false},
		{"SCTP INIT", ether(0x0800, ip4(132, 0, 0, init)), true},
		{"SCTP data", ether(0x0800, ip4(132, 0, 0, data)), false},
		{"IPv6 SCTP INIT", ether(0x86dd, ip6(132, init)), true},
		{"UDP", udp(macOf(director), make([]byte, 100)), false},
		{"IPv6 UDP", ether(0x86dd, ip6(17, make([]byte, 40))), false},
		{"ICMP", ether(0x0800, ip4(1, 0, 0, make([]byte, 40))), false},
		{"ARP", ether(0x0806, make([]byte, 46)), false},
	}
}

// Each frame is let in by one filter: what opens connections by that of SYNs.
func TestOpeningFilter(t *testing.T) {
	s := newSides(t)
	for _, c := range openingCases() {
		// Cut at every length, also inside what is looked at.
		for n := range len(c.frame) + 1 {
			if got, want := s.opens(t, c.frame[:n]), looksOpening(c.frame[:n]); got != want {
				t.Errorf("%s, the first %d bytes: %v, want %v", c.name, n, got, want)
			}
		}
		if got := s.opens(t, c.frame); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// The kernel has the filters do the same: each frame is in one ring, and no other.
func TestRingOfEachKind(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r, inject := bench(t, l)
	has := func(g *ring, frame []byte) bool {
		for i := 0; g.filled(i); i++ {
			slot := g.slot(i)
			at := int(native.Uint16(slot[slotMAC:]))
			if bytes.Equal(slot[at:at+int(native.Uint32(slot[slotSnaplen:]))], frame) {
				return true
			}
		}
		return false
	}
	for _, c := range openingCases() {
		if len(c.frame) > 1518 {
			continue // longer than the wire takes
		}
		inject(c.frame, dataplane.Offload{})
		frame := c.frame
		if n, _ := tags(frame); n > 0 { // the kernel keeps one beside it
			frame = slices.Concat(frame[:12], frame[12+tagLen:])
		}
		want, other := &r.sock.ring, &r.sock.syns
		if looksOpening(frame) {
			want, other = other, want
		}
		eventually(t, c.name+" is in its ring", func() bool { return has(want, frame) })
		if has(other, frame) {
			t.Errorf("%s is in the other ring too", c.name)
		}
		h := new(toHop)
		for r.step(h) > 0 {
		}
	}
}

// The filters do as their slow description, with frames that nobody thought of.
func TestOpeningFilterRandom(t *testing.T) {
	s := newSides(t)
	rng := rand.New(rand.NewPCG(13, 4))
	pick := func(of ...byte) byte { return of[rng.IntN(len(of))] }
	opened := 0
	for i := range 200000 {
		f := make([]byte, rng.IntN(160))
		for i := range f {
			f[i] = byte(rng.Uint32N(256) >> rng.IntN(8))
		}
		// As if one of these: type, then what leads to a transport header.
		put := func(at int, b ...byte) {
			if at < len(f) {
				copy(f[at:], b)
			}
		}
		at := 12
		for range rng.IntN(4) {
			put(at, [][]byte{{0x81, 0}, {0x88, 0xa8}, {0x91, 0}}[rng.IntN(3)]...)
			at += 4
		}
		if rng.IntN(2) == 0 {
			put(at, 8, 0, 0x40|byte(rng.IntN(16)))
			put(at+2+9, pick(6, 6, 17, 132))
		} else {
			put(at, 0x86, 0xdd)
			put(at+2+6, pick(6, 0, 43, 44, 60, 132))
			for at += 42; rng.IntN(3) > 0; at += 8 {
				put(at, pick(6, 0, 43, 44, 60), pick(0, 0, 0, 1, 255))
			}
		}
		got, want := s.opens(t, f), looksOpening(f)
		if got != want {
			t.Fatalf("frame %d: %v, want %v: % x", i, got, want, f)
		}
		if got {
			opened++
		}
	}
	if opened < 1000 {
		t.Errorf("only %d frames opened: the test does not test what it means to", opened)
	}
}
