package bench

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/ulvs/ulvs/dataplane"
)

const batch = 64

const (
	syn = 0x02
	ack = 0x10
)

// frames is a batch of TCP packets that are written anew each time: only what the
// director has changed, and the client. That costs a few nanoseconds a packet
// (BenchmarkDecision/writing).
type frames struct {
	list [batch]dataplane.Frame
	sum  uint32 // of the IP header, without checksum, and without the client
}

// newFrames makes packets to a virtual service.
func newFrames(tb testing.TB, to netip.AddrPort, flags byte) *frames {
	tb.Helper()
	f := new(frames)
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: make([]byte, 4), DstIP: to.Addr().AsSlice()}
	tcp := &layers.TCP{DstPort: layers.TCPPort(to.Port()), SYN: flags&syn != 0, ACK: flags&ack != 0, Window: 1024}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		tb.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp); err != nil {
		tb.Fatal(err)
	}
	for i := range f.list {
		f.list[i] = dataplane.Frame{Data: append(make([]byte, 0, 64), buf.Bytes()...), In: 2}
	}
	header := buf.Bytes()[14:34]
	for at := 0; at < 20; at += 2 {
		if at != 10 {
			f.sum += uint32(binary.BigEndian.Uint16(header[at:]))
		}
	}
	return f
}

// client writes who frame i is from.
func (f *frames) client(i int, addr uint32, port uint16) {
	p := f.list[i].Data[:54]
	sum := f.sum + addr>>16 + addr&0xffff
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	p[22] = 64
	binary.BigEndian.PutUint16(p[24:], ^uint16(sum))
	binary.BigEndian.PutUint32(p[26:], addr)
	binary.BigEndian.PutUint16(p[34:], port)
	f.list[i].Verdict = dataplane.Pass
}

// to writes whom all frames are for.
func (f *frames) to(addr netip.AddrPort) {
	var before, after uint32
	b := addr.Addr().As4()
	for i := range f.list {
		p := f.list[i].Data
		before = uint32(binary.BigEndian.Uint16(p[30:])) + uint32(binary.BigEndian.Uint16(p[32:]))
		copy(p[30:], b[:])
		binary.BigEndian.PutUint16(p[36:], addr.Port())
		after = uint32(binary.BigEndian.Uint16(p[30:])) + uint32(binary.BigEndian.Uint16(p[32:]))
	}
	f.sum += after - before
}

// crowd is a sequence of clients. Each has so many connections, one after the other.
type crowd struct {
	next  uint32
	conns uint32 // of each client
}

// fill writes the next 64 new connections.
func (c *crowd) fill(f *frames) []dataplane.Frame {
	for i := range f.list {
		who := c.next / c.conns
		f.client(i, 10<<24|who&0xffffff, uint16(1024+(who>>24)*c.conns+c.next%c.conns))
		c.next++
	}
	return f.list[:]
}

// draw writes packets of flows that were drawn from so many, of one connection a
// client.
type draw struct {
	state uint64
	flows uint32
}

func (d *draw) fill(f *frames) []dataplane.Frame {
	for i := range f.list {
		d.state = d.state*6364136223846793005 + 1442695040888963407
		f.client(i, 10<<24|uint32(d.state>>32*uint64(d.flows)>>32), 1024)
	}
	return f.list[:]
}
