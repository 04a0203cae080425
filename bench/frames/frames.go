// Package frames writes TCP packets for directors that are given them without a
// network: batches that are written anew each time, for a few nanoseconds a packet.
// It is for benchmarks and not covered by compatibility.
package frames

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/ulvs/ulvs/dataplane"
)

// Size is how many packets a batch has.
const Size = 64

// Flags of TCP packets.
const (
	SYN = 0x02
	ACK = 0x10
)

// Batch is TCP packets from clients to a virtual service, over IPv4. Only what a
// director has changed, and the client, are written anew. Make it with New. It is not
// safe for concurrent use.
type Batch struct {
	List [Size]dataplane.Frame
	sum  uint32 // of the IP header, without checksum, and without the client
}

// New makes packets to a virtual service of an IPv4 address, which come in by
// interface 2 and have no client yet.
func New(to netip.AddrPort, flags byte) (*Batch, error) {
	if !to.Addr().Is4() {
		return nil, fmt.Errorf("frames: %v is not a service of an IPv4 address", to)
	}
	f := new(Batch)
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: make([]byte, 4),
		DstIP: to.Addr().AsSlice()}
	tcp := &layers.TCP{DstPort: layers.TCPPort(to.Port()), SYN: flags&SYN != 0, ACK: flags&ACK != 0, Window: 1024}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		eth, ip, tcp); err != nil {
		return nil, err
	}
	for i := range f.List {
		f.List[i] = dataplane.Frame{Data: append(make([]byte, 0, 64), buf.Bytes()...), In: 2}
	}
	header := buf.Bytes()[14:34]
	for at := 0; at < 20; at += 2 {
		if at != 10 {
			f.sum += uint32(binary.BigEndian.Uint16(header[at:]))
		}
	}
	return f, nil
}

// Client writes who packet i is from, an address and a port in host order, and makes
// it one that nobody has decided about.
func (f *Batch) Client(i int, addr uint32, port uint16) {
	p := f.List[i].Data[:54]
	sum := f.sum + addr>>16 + addr&0xffff
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	p[22] = 64
	binary.BigEndian.PutUint16(p[24:], ^uint16(sum))
	binary.BigEndian.PutUint32(p[26:], addr)
	binary.BigEndian.PutUint16(p[34:], port)
	f.List[i].Verdict = dataplane.Pass
}

// To writes whom all packets are for. Client has to follow.
func (f *Batch) To(addr netip.AddrPort) {
	var before, after uint32
	b := addr.Addr().As4()
	for i := range f.List {
		p := f.List[i].Data
		before = uint32(binary.BigEndian.Uint16(p[30:])) + uint32(binary.BigEndian.Uint16(p[32:]))
		copy(p[30:], b[:])
		binary.BigEndian.PutUint16(p[36:], addr.Port())
		after = uint32(binary.BigEndian.Uint16(p[30:])) + uint32(binary.BigEndian.Uint16(p[32:]))
	}
	f.sum += after - before
}
