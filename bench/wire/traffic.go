package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Traffic says what packets a Generator makes. Dst, Client, Service and Flows, or
// Pick, are required.
type Traffic struct {
	// Dst and Src are the frames' link addresses.
	Dst, Src [6]byte
	// Client is whom packets of flow 0 come from, and Service whom all are for.
	// Both are of one family.
	Client, Service netip.AddrPort
	// PortBits is how many of a flow number's lowest bits are added to the client's
	// port, up to 16; the others are added to the lowest 32 bits of its address.
	PortBits uint8
	// UDP: packets are of UDP, not of TCP. SYN: those of TCP ask for a connection;
	// otherwise they have the flag ACK, and with FIN that too.
	UDP, SYN, FIN bool
	// VLAN, if not 0, is the VLAN of an 802.1Q tag in each frame.
	VLAN uint16
	// Payload is how many bytes are behind the transport header.
	Payload int
	// Sequence has the payload begin with the packet's number, eight bytes in network
	// order, from 0 on.
	Sequence bool
	// Flows is how many flows there are: each packet is of one of 0 to Flows-1. Pick
	// narrows that to the numbers in it; who is in it twice is taken twice as often.
	Flows uint32
	Pick  []uint32
	// Random takes flows at random, from a sequence that is the same for the same
	// Seed, and not one after the other.
	Random bool
	Seed   uint64
	// Count keeps count of packets by flow (Generator.SentOf).
	Count bool
	// Batch is how many packets are made before the first is sent: 1 to 128; 0 is
	// 64, the most that the receiving interface takes at one go. (256 is the most
	// that there can be, and fills its ring: some were lost.)
	Batch uint32
	// Rate, if not 0, is how many packets a second are sent: one at a time, evenly,
	// by a program that looks at the clock for as long as it takes. What was missed,
	// up to half a second's, is caught up with at twice the rate.
	Rate uint64
	// Call is how many packets are made in a system call, 0 is 1<<20: between two calls
	// there is a pause of some 20 ms, and Stop waits for the end of one.
	Call uint32
	// CPU is on which everything happens.
	CPU int
}

// ClientOf is whom packets of a flow come from.
func (t Traffic) ClientOf(flow uint32) netip.AddrPort {
	a := t.Client.Addr().AsSlice()
	low := a[len(a)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+flow>>t.PortBits)
	addr, _ := netip.AddrFromSlice(a)
	return netip.AddrPortFrom(addr, t.Client.Port()+uint16(flow&t.portMask()))
}

func (t Traffic) portMask() uint32 { return 1<<t.PortBits - 1 }

func (t Traffic) six() bool { return t.Client.Addr().Is6() }

// atIP is where the IP header is in a frame without a tag.
const atIP = 14

func (t Traffic) atIP() int {
	if t.VLAN != 0 {
		return atIP + 4
	}
	return atIP
}

func (t Traffic) atTransport() int {
	if t.six() {
		return t.atIP() + 40
	}
	return t.atIP() + 20
}

func (t Traffic) atPayload() int {
	if t.UDP {
		return t.atTransport() + 8
	}
	return t.atTransport() + 20
}

func (t Traffic) check() error {
	switch {
	case !t.Client.IsValid() || !t.Service.IsValid() || t.Client.Addr().Is4() != t.Service.Addr().Is4():
		return fmt.Errorf("client %v and service %v: give two addresses and ports of one family", t.Client, t.Service)
	case t.Flows == 0:
		return fmt.Errorf("Traffic needs Flows: give 1 or more")
	case t.Flows > 1<<24 && t.Count:
		return fmt.Errorf("%d flows are too many to count each: give fewer, or do not count them", t.Flows)
	case t.PortBits > 16:
		return fmt.Errorf("%d PortBits: give up to 16", t.PortBits)
	case t.Batch > 128:
		return fmt.Errorf("batches of %d: give up to 128", t.Batch)
	case t.Rate > 1e9:
		return fmt.Errorf("%d packets a second: give up to 1000000000", t.Rate)
	case t.UDP && (t.SYN || t.FIN):
		return fmt.Errorf("UDP has no SYN and no FIN: leave it out, or use TCP")
	case t.VLAN > 4094:
		return fmt.Errorf("VLAN %d: give one up to 4094", t.VLAN)
	case t.Payload < 0 || t.Payload > 1400:
		return fmt.Errorf("a payload of %d bytes: give up to 1400", t.Payload)
	case t.Sequence && t.Payload < 8:
		return fmt.Errorf("a payload of %d bytes has no room for a sequence number of 8", t.Payload)
	}
	for _, f := range t.Pick {
		if f >= t.Flows {
			return fmt.Errorf("flow %d is picked, and there are %d, from 0 on", f, t.Flows)
		}
	}
	return nil
}

// frame is what all packets have in common, with address and port of flow 0, and
// without checksums.
func (t Traffic) frame() []byte {
	f := make([]byte, t.atPayload()+t.Payload)
	copy(f, t.Dst[:])
	copy(f[6:], t.Src[:])
	proto := byte(6)
	if t.UDP {
		proto = 17
	}
	if t.VLAN != 0 {
		binary.BigEndian.PutUint16(f[12:], 0x8100)
		binary.BigEndian.PutUint16(f[14:], t.VLAN)
	}
	ip, etherType := f[t.atIP():], f[t.atIP()-2:]
	src, dst := t.Client.Addr().AsSlice(), t.Service.Addr().AsSlice()
	if t.six() {
		binary.BigEndian.PutUint16(etherType, 0x86dd)
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		copy(ip[8:], src)
		copy(ip[24:], dst)
	} else {
		binary.BigEndian.PutUint16(etherType, 0x0800)
		ip[0], ip[8], ip[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		copy(ip[12:], src)
		copy(ip[16:], dst)
	}
	l4 := f[t.atTransport():]
	binary.BigEndian.PutUint16(l4, t.Client.Port())
	binary.BigEndian.PutUint16(l4[2:], t.Service.Port())
	if t.UDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	} else {
		l4[12], l4[13] = 5<<4, 0x10
		if t.SYN {
			l4[13] = 0x02
		}
		if t.FIN {
			l4[13] |= 0x01
		}
		binary.BigEndian.PutUint16(l4[14:], 0xffff)
	}
	return f
}
