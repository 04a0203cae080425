package afpacket

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// big raises the limits of all links of the lab to the kernel's own.
func (l *lab) big(size int) {
	for host := range l.ns {
		l.in(host, func() {
			links, err := netlink.LinkList()
			l.must(err)
			for _, k := range links {
				if k.Attrs().Name == "lo" {
					continue
				}
				for _, set := range []func(netlink.Link, int) error{netlink.LinkSetGSOMaxSize, netlink.LinkSetGROMaxSize,
					netlink.LinkSetGSOIPv4MaxSize, netlink.LinkSetGROIPv4MaxSize} {
					l.must(set(k, size))
				}
			}
		})
	}
}

// BIG TCP is forwarded whole, in frames that an IP header can describe.
func TestBigTCP(t *testing.T) {
	t.Parallel()
	for name, addr := range map[string]string{"IPv4": vip4 + ":80", "IPv6": "[" + vip6 + "]:80"} {
		for _, size := range []int{180000, 524280} {
			t.Run(fmt.Sprintf("%s, %d", name, size), func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				l.vipOn(server)
				l.big(size)
				l.in(client, func() {
					k, err := netlink.LinkByName("eth0")
					l.must(err)
					if name == "IPv4" && k.Attrs().GSOIPv4MaxSize != uint32(size) {
						t.Skip("this kernel has no BIG TCP of IPv4")
					}
				})
				h := &toHop{hop: l.hop(server)}
				p, stop := l.start(director, h, Options{})
				if err := p.Claim(both(80)); err != nil {
					t.Fatal(err)
				}
				l.upload(addr, 20<<20)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				n := p.Counters()
				t.Logf("%d frames, largest %d: %v", h.seen, h.largest, n)
				if n["rx_cut"] == 0 {
					t.Error("no frame was longer than 64 KiB: the test does not test what it means to")
				}
				if n["rx_truncated"] != 0 || h.largest > macLen+longest {
					t.Errorf("%d frames were truncated, and the largest had %d bytes", n["rx_truncated"], h.largest)
				}
				if n["tx_frames"] != uint64(h.seen) {
					t.Errorf("frames were lost: %v", n)
				}
			})
		}
	}
}

// jumbo is a frame of TCP as the kernel makes them for BIG TCP.
func jumbo(t testing.TB, v6 bool, flags byte, payload []byte, tags ...uint16) ([]byte, dataplane.Offload) {
	t.Helper()
	tcp := &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 0xfffff000, Ack: 7, Window: 1000,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, tcp); err != nil {
		t.Fatal(err)
	}
	segment := append(bytes.Clone(buf.Bytes()), payload...)
	segment[13] = flags
	f, o := unsegmented(nil, tags...)
	ip := macLen + 4*len(tags)
	o.GSOSize = 1448
	if v6 {
		f = f[:ip]
		binary.BigEndian.PutUint16(f[ip-2:], etherTypeIPv6)
		f = append(f, 0x60, 0, 0, 0, 0, 0, 0, 64) // hop-by-hop
		f = append(f, netip.MustParseAddr("fd08::1").AsSlice()...)
		f = append(f, virtual6.AsSlice()...)
		f = append(f, unix.IPPROTO_TCP, 0, 0xc2, 4)
		f = binary.BigEndian.AppendUint32(f, uint32(jumboLen+len(segment)))
		o.GSOType = unix.VIRTIO_NET_HDR_GSO_TCPV6
	} else {
		f = f[:ip+20]
		f[ip+2], f[ip+3] = 0, 0
		f[ip+4], f[ip+5] = 0xff, 0xf0
	}
	o.CsumStart = uint16(len(f))
	return append(f, segment...), o
}

// The pieces of a frame say together what it says, each with headers and sums of its own.
func TestCut(t *testing.T) {
	const fin, psh, ack, cwr = 1, 8, 16, 128
	payload := make([]byte, 200001)
	rng := rand.NewChaCha8([32]byte{2})
	_, _ = rng.Read(payload)
	for _, v6 := range []bool{false, true} {
		for _, vlans := range [][]uint16{nil, {5}, {5, 6}} {
			t.Run(fmt.Sprint("v6 ", v6, vlans), func(t *testing.T) {
				frame, o := jumbo(t, v6, fin|psh|ack|cwr, payload, vlans...)
				c, ok := cutting(frame[:300], o, len(frame))
				if !ok {
					t.Fatal("it is not to be cut")
				}
				var got []byte
				for i := range c.pieces() {
					b := make([]byte, len(c.head)-c.skip)
					po := c.headers(b, i)
					at := len(frame) - len(payload) + i*c.each
					b = append(b, frame[at:at+c.size(i)]...)
					if len(b) > macLen+4*len(vlans)+longest {
						t.Errorf("piece %d has %d bytes", i, len(b))
					}
					got = append(got, piece(t, b, po, i, c.pieces(), uint32(len(got)), v6)...)
				}
				if !bytes.Equal(got, payload) || c.pieces() < 4 {
					t.Errorf("%d bytes in %d pieces", len(got), c.pieces())
				}
			})
		}
	}
}

// piece checks one as a receiver would, and returns its payload.
func piece(t *testing.T, b []byte, o dataplane.Offload, i, of int, seq uint32, v6 bool) []byte {
	t.Helper()
	// Its checksum is finished as a card would.
	rest := add(0, append(bytes.Clone(b[o.CsumStart:]), 0)) // odd bytes count too
	binary.BigEndian.PutUint16(b[int(o.CsumStart)+int(o.CsumOffset):], ^uint16(rest))
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("piece %d: %v", i, e.Error())
	}
	tcp := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	var pseudo uint32
	if v6 {
		ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		if int(ip.Length) != len(tcp.Contents)+len(tcp.Payload) || ip.NextHeader != layers.IPProtocolTCP {
			t.Errorf("piece %d: length %d, %v follows", i, ip.Length, ip.NextHeader)
		}
		pseudo = add(add(0, ip.SrcIP), ip.DstIP)
	} else {
		ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if int(ip.Length) != 20+len(tcp.Contents)+len(tcp.Payload) || add(0, ip.Contents) != 0xffff ||
			ip.Id != 0xfff0+uint16(seq/1448) {
			t.Errorf("piece %d: length %d, sum %x, ID %x", i, ip.Length, add(0, ip.Contents), ip.Id)
		}
		pseudo = add(add(0, ip.SrcIP.To4()), ip.DstIP.To4())
	}
	segment := append(bytes.Clone(tcp.Contents), tcp.Payload...)
	if len(segment)%2 == 1 {
		segment = append(segment, 0)
	}
	if sum := add(pseudo+unix.IPPROTO_TCP+uint32(len(tcp.Contents)+len(tcp.Payload)), segment); sum != 0xffff {
		t.Errorf("piece %d: checksum %x", i, sum)
	}
	last := i == of-1
	if tcp.Seq != 0xfffff000+seq || tcp.FIN != last || tcp.PSH != last || tcp.CWR != (i == 0) || !tcp.ACK {
		t.Errorf("piece %d: %+v", i, tcp)
	}
	if whole := len(tcp.Payload)%1448 == 0; whole == last || o.GSOType == 0 {
		t.Errorf("piece %d: %d bytes, %+v", i, len(tcp.Payload), o)
	}
	return tcp.Payload
}

// What is no frame of TCP to be cut is left alone, whatever it says.
func FuzzCutting(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		frame, o := jumbo(f, v6, 16, make([]byte, 70000))
		f.Add(frame[:200], o.GSOType, o.GSOSize, o.CsumStart, len(frame))
	}
	f.Fuzz(func(t *testing.T, head []byte, gso uint8, size, start uint16, length int) {
		if length > 524280+macLen || length < len(head) {
			return
		}
		c, ok := cutting(head, dataplane.Offload{Flags: dataplane.NeedsChecksum, GSOType: gso, GSOSize: size,
			CsumStart: start, CsumOffset: tcpSum}, length)
		if !ok || c.pieces() > mostPieces {
			return
		}
		total := 0
		buf := make([]byte, vnetLen+largest)
		for i := range c.pieces() {
			c.headers(buf, i)
			if total += c.size(i); len(c.head)-c.skip+c.size(i) > len(buf)-vnetLen {
				t.Errorf("a piece of %d bytes", len(c.head)+c.size(i))
			}
		}
		if total != length-len(c.head) {
			t.Errorf("%d of %d bytes", total, length-len(c.head))
		}
	})
}
