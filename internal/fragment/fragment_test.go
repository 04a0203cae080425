package fragment_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/internal/fragment"
	"github.com/ulvs/ulvs/packet"
)

const life = 7500 // 30 s of 4 ms

// of is a fragment as Parse would give it; the first has ports.
func of(proto uint8, src, dst string, id uint32, port uint16) *packet.Packet {
	client, virtual := netip.AddrPortFrom(netip.MustParseAddr(src), port), netip.AddrPortFrom(netip.MustParseAddr(dst), port)
	return &packet.Packet{
		Flow: packet.NewFlow(proto, client, virtual), Proto: proto, FragID: id,
		Is6: client.Addr().Is6(), Fragment: true,
	}
}

func first(src string, id uint32) *packet.Packet {
	return of(packet.ProtoUDP, src, "192.168.10.101", id, 53)
}
func later(src string, id uint32) *packet.Packet {
	return of(packet.ProtoUDP, src, "192.168.10.101", id, 0)
}

func expect(t *testing.T, what string, table *fragment.Table, p *packet.Packet, now, dest uint32) {
	t.Helper()
	if got, ok := table.Later(p, now); got != dest || ok != (dest != 0) {
		t.Errorf("%s: goes to %d (%v), want %d", what, got, ok, dest)
	}
}

// Everything that RFC 791 and RFC 8200 name tells datagrams apart, and nothing
// else does: the ports, which only the first fragment has, do not.
func TestDatagramsApart(t *testing.T) {
	const vip, vip6 = "192.168.10.101", "fd00:10::101"
	same := []struct {
		what string
		p    func(port uint16) *packet.Packet
	}{
		{"the first", func(port uint16) *packet.Packet { return of(17, "10.1.1.1", vip, 1, port) }},
		{"another ID", func(port uint16) *packet.Packet { return of(17, "10.1.1.1", vip, 2, port) }},
		{"another protocol", func(port uint16) *packet.Packet { return of(6, "10.1.1.1", vip, 1, port) }},
		{"another source", func(port uint16) *packet.Packet { return of(17, "10.1.1.2", vip, 1, port) }},
		{"another destination", func(port uint16) *packet.Packet { return of(17, "10.1.1.1", "192.168.10.102", 1, port) }},
		{"the other way round", func(port uint16) *packet.Packet { return of(17, vip, "10.1.1.1", 1, port) }},
		{"IPv6", func(port uint16) *packet.Packet { return of(17, "fd00:1::1", vip6, 1, port) }},
		{"IPv6, an ID of 32 bits", func(port uint16) *packet.Packet { return of(17, "fd00:1::1", vip6, 1<<16+1, port) }},
		{"IPv6, another prefix", func(port uint16) *packet.Packet { return of(17, "fd00:2::1", vip6, 1, port) }},
		{"IPv6, another host", func(port uint16) *packet.Packet { return of(17, "fd00:1::2", vip6, 1, port) }},
		{"IPv6, another destination's prefix", func(port uint16) *packet.Packet { return of(17, "fd00:1::1", "fd00:11::101", 1, port) }},
		{"IPv6, another destination's host", func(port uint16) *packet.Packet { return of(17, "fd00:1::1", "fd00:10::102", 1, port) }},
		// These 16 bytes are those of the first's two addresses, and zeros.
		{"IPv6 with the bytes of IPv4", func(port uint16) *packet.Packet { return of(17, "a01:101:c0a8:a65::", "::", 1, port) }},
	}
	table := fragment.New(1<<14, life)
	for i, d := range same {
		expect(t, d.what+", before its first", table, d.p(0), 100, 0)
		table.First(d.p(53), uint32(i+1), 100)
	}
	for i, d := range same {
		expect(t, d.what, table, d.p(0), 100, uint32(i+1))
		expect(t, d.what+", again", table, d.p(0), 101, uint32(i+1))
	}
}

// The same with frames from the wire, through Parse.
func TestParsed(t *testing.T) {
	frame := func(id, offset uint16, more bool) *packet.Packet {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, Id: id, FragOffset: offset, SrcIP: []byte{10, 1, 1, 1}, DstIP: []byte{192, 168, 10, 101}}
		if more {
			ip.Flags = layers.IPv4MoreFragments
		}
		stack := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}, ip}
		if offset == 0 {
			u := &layers.UDP{SrcPort: 1000, DstPort: 53}
			if err := u.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
			stack = append(stack, u)
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(stack, gopacket.Payload(make([]byte, 80)))...); err != nil {
			t.Fatal(err)
		}
		p := new(packet.Packet)
		p.Parse(buf.Bytes())
		if !p.Fragment || p.FragID != uint32(id) {
			t.Fatalf("parsed as %+v", p)
		}
		return p
	}
	table := fragment.New(1<<14, life)
	table.First(frame(7, 0, true), 3, 1)
	table.First(frame(8, 0, true), 4, 1)
	expect(t, "in the middle", table, frame(7, 11, true), 1, 3)
	expect(t, "the last", table, frame(7, 22, false), 1, 3)
	expect(t, "of the other", table, frame(8, 11, false), 1, 4)
	expect(t, "of none", table, frame(9, 11, false), 1, 0)
}

// A datagram is forgotten after its life, however often it was asked for; its
// first fragment, sent again, brings it a new life and maybe another server.
func TestExpiry(t *testing.T) {
	for _, start := range []uint32{0, 1000, 1<<32 - life/2} { // the tick wraps in the last
		t.Run(fmt.Sprint("from ", start), func(t *testing.T) {
			table := fragment.New(1, life)
			table.First(first("10.1.1.1", 1), 9, start)
			expect(t, "at once", table, later("10.1.1.1", 1), start, 9)
			expect(t, "just before its end", table, later("10.1.1.1", 1), start+life-1, 9)
			expect(t, "at its end", table, later("10.1.1.1", 1), start+life, 0)
			expect(t, "long after", table, later("10.1.1.1", 1), start+1<<30, 0)
			table.First(first("10.1.1.1", 1), 8, start+life)
			expect(t, "again", table, later("10.1.1.1", 1), start+2*life-1, 8)
			table.First(first("10.1.1.1", 1), 7, start+life+10)
			expect(t, "sent twice", table, later("10.1.1.1", 1), start+2*life+9, 7)
			expect(t, "sent twice, at its end", table, later("10.1.1.1", 1), start+2*life+10, 0)
		})
	}
}

// A batch may have read the clock before the one that was handled first.
func TestClockOfAnEarlierBatch(t *testing.T) {
	table := fragment.New(4, life)
	for i := range uint32(4) {
		table.First(first("10.1.1.1", i), i+1, 1000+i)
	}
	expect(t, "a tick before its first", table, later("10.1.1.1", 3), 1002, 4)
	table.First(first("10.1.1.1", 9), 9, 1001)
	expect(t, "the oldest", table, later("10.1.1.1", 0), 1001, 0)
	expect(t, "the newest", table, later("10.1.1.1", 3), 1001, 4)
}

// The oldest of four gives way, wherever it lies; one that was sent again is
// young, and takes no second place.
func TestOldestOfFourGivesWay(t *testing.T) {
	for oldest := range uint32(4) {
		table := fragment.New(4, life)
		for i := range uint32(4) {
			table.First(first("10.1.1.1", i), i+1, 100+i)
		}
		for i := range uint32(4) { // all but oldest are sent again
			if i != oldest {
				table.First(first("10.1.1.1", i), i+1, 200+i)
			}
		}
		table.First(first("10.1.1.1", 4), 5, 300)
		for i := range uint32(5) {
			want := i + 1
			if i == oldest {
				want = 0
			}
			expect(t, fmt.Sprintf("oldest %d: datagram %d", oldest, i), table, later("10.1.1.1", i), 300, want)
		}
	}
}

// oracle does the same with a map and a search; at most size datagrams.
type oracle struct {
	size  int
	dests map[[2]uint32]uint32 // source's last byte and ID
	seen  map[[2]uint32]uint32
}

func (o *oracle) first(k [2]uint32, dest, now uint32) {
	if _, known := o.dests[k]; !known && len(o.dests) == o.size {
		oldest := k
		for other, at := range o.seen {
			if oldest == k || at < o.seen[oldest] {
				oldest = other
			}
		}
		delete(o.dests, oldest)
		delete(o.seen, oldest)
	}
	o.dests[k], o.seen[k] = dest, now
}

func (o *oracle) later(k [2]uint32, now uint32) (uint32, bool) {
	if dest, ok := o.dests[k]; ok && now-o.seen[k] < life {
		return dest, true
	}
	return 0, false
}

func TestAgainstOracle(t *testing.T) {
	for _, c := range []struct{ table, oracle, hosts, ids int }{
		{1, 4, 2, 4},             // one set, always full
		{4, 4, 3, 3},             // the same
		{1 << 16, 1 << 20, 8, 8}, // so many that five of 64 never share a set
	} {
		t.Run(fmt.Sprint(c.table), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(c.table)))
			table := fragment.New(c.table, life)
			o := &oracle{size: c.oracle, dests: map[[2]uint32]uint32{}, seen: map[[2]uint32]uint32{}}
			now, hits, misses := uint32(1), 0, 0
			for step := range 20000 {
				k := [2]uint32{uint32(rng.IntN(c.hosts)), uint32(rng.IntN(c.ids))}
				src := fmt.Sprintf("10.1.1.%d", k[0])
				// Time moves at each step, so that there is one oldest.
				if now++; rng.IntN(500) == 0 {
					now += uint32(rng.IntN(2 * life))
				}
				if rng.IntN(3) == 0 {
					dest := uint32(1 + rng.IntN(1000))
					table.First(first(src, k[1]), dest, now)
					o.first(k, dest, now)
					continue
				}
				dest, ok := table.Later(later(src, k[1]), now)
				wantDest, want := o.later(k, now)
				if dest != wantDest || ok != want {
					t.Fatalf("step %d, tick %d, %v: %d %v, want %d %v", step, now, k, dest, ok, wantDest, want)
				}
				if ok {
					hits++
				} else {
					misses++
				}
			}
			if hits < 1000 || misses < 100 {
				t.Errorf("%d hits, %d misses: the test does not test", hits, misses)
			}
		})
	}
}

// A table of any size holds about as many datagrams as it was asked for.
func TestSize(t *testing.T) {
	for _, size := range []int{0, 1, 3, 5, 1000, 8192} {
		table := fragment.New(size, life)
		held := 0
		for id := range uint32(size) {
			table.First(first("10.1.1.1", id), 1+id, 1)
		}
		for id := range uint32(size) {
			if dest, ok := table.Later(later("10.1.1.1", id), 1); ok {
				if dest != 1+id {
					t.Fatalf("size %d: %d goes to %d", size, id, dest)
				}
				held++
			}
		}
		// Balls in bins: 8192 in 2048 sets of 4 lose a fifth.
		if held < size*7/10 || size <= 4 && held != size {
			t.Errorf("size %d: holds %d", size, held)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	table := fragment.New(64, life)
	a, b, c := first("10.1.1.1", 1), later("10.1.1.1", 1), later("10.1.1.1", 2)
	var now uint32
	if n := testing.AllocsPerRun(1000, func() {
		now++
		a.FragID = now % 1000
		table.First(a, 1, now)
		table.Later(b, now)
		table.Later(c, now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
