package xdp

import (
	"math/bits"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// A chain is looked through to the last slot that it should be; what lies behind is
// passed.
func TestLongChain(t *testing.T) { bothWays(t, 1000, longChain) }

func longChain(t *testing.T, b *bench) {
	_, homes := b.conns.Seed()
	var frames [][]byte
	first := uint64(0)
	for port := uint16(1000); len(frames) < 2+program.MaxChain+1; port++ {
		frame := shape{proto: layers.IPProtocolUDP, port: port}.frame(t)
		var p packet.Packet
		p.Parse(frame)
		home, _ := bits.Mul64(b.conns.Hash(&p.Flow)&^0xffff_ffff, uint64(homes))
		if len(frames) == 0 {
			first = home
		}
		if home == first {
			frames = append(frames, frame)
		}
	}
	for n := range frames {
		b.open(frames[n], 3)
		passed := 0
		for _, frame := range frames[:n+1] {
			if action, _ := b.run(frame); action != program.ActionTX {
				passed++
			}
		}
		if want := max(0, n+1-(2+program.MaxChain)); passed != want {
			t.Errorf("of %d connections of one home slot the packets of %d were passed, and not of %d", n+1, passed, want)
		}
	}
}

// A connection that lies further down its chain than the program looks gets no second
// one from it.
func TestLongChainOpens(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 80}
	w.both("add a service", func(c ulvs.Control) error { return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}) })
	for i := range 3 {
		d := ulvs.Destination{Addr: pairServer(false, i), Port: 80, Weight: 1}
		w.both("add a real server", func(c ulvs.Control) error { return c.AddDestination(k, d) })
	}
	block, free, err := shtab.Memory(len(w.still.conns.memory))
	w.must(err)
	defer free()
	copy(block, w.still.conns.memory)
	table, _, err := shtab.Adopt(block, w.options(nil).Connections, w.still.shape.Hz)
	w.must(err)
	var frames [][]byte
	first := uint32(0)
	for i := uint32(0); len(frames) < 2+program.MaxChain+4; i++ {
		client := netip.AddrFrom4([4]byte{10, 1 + byte(i>>16), byte(i >> 8), byte(i)})
		frame := shape{proto: layers.IPProtocolUDP, port: 1000}.frame(t)
		from(frame, client)
		var p packet.Packet
		p.Parse(frame)
		home := table.Home(table.Hash((*shtab.Key)(&p.Flow)))
		if len(frames) == 0 {
			first = home
		}
		if home == first {
			frames = append(frames, frame)
		}
	}
	for n := range frames {
		for _, frame := range frames[:n+1] {
			w.send(frame)
		}
		w.compare()
	}
	if opened := w.openedNow(); opened < 2+program.MaxChain {
		t.Errorf("the program opened %d connections", opened)
	}
}

// from changes whom an IPv4 frame is from.
func from(frame []byte, client netip.Addr) {
	copy(frame[26:30], client.AsSlice())
	frame[24], frame[25] = 0, 0
	sum := packet.Checksum(frame[14:34])
	frame[24], frame[25] = byte(sum>>8), byte(sum)
}
