package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf/asm"
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
	// UDP: packets are of UDP, not of TCP. Flags are those of TCP packets, as in the
	// header's byte 13: 0 is ACK, and SYN has each be a connection's first.
	UDP   bool
	Flags byte
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
	// CPU is on which everything happens.
	CPU int
}

// TCP flags, for Traffic.
const (
	SYN = 0x02
	ACK = 0x10
)

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

// Where the parts of a frame are.
const atIP = 14

func (t Traffic) atTransport() int {
	if t.six() {
		return atIP + 40
	}
	return atIP + 20
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
		return fmt.Errorf("wire: client %v and service %v: give two addresses and ports of one family", t.Client, t.Service)
	case t.Flows == 0:
		return fmt.Errorf("wire: Traffic needs Flows")
	case t.Flows > 1<<24 && t.Count:
		return fmt.Errorf("wire: %d flows are too many to count each", t.Flows)
	case t.PortBits > 16:
		return fmt.Errorf("wire: %d PortBits: give up to 16", t.PortBits)
	case t.Batch > 128:
		return fmt.Errorf("wire: batches of %d: give up to 128", t.Batch)
	case t.Payload < 0 || t.Payload > 1400:
		return fmt.Errorf("wire: a payload of %d bytes: give up to 1400", t.Payload)
	case t.Sequence && t.Payload < 8:
		return fmt.Errorf("wire: a payload of %d bytes has no room for a sequence number of 8", t.Payload)
	}
	for _, f := range t.Pick {
		if f >= t.Flows {
			return fmt.Errorf("wire: flow %d is picked, of %d", f, t.Flows)
		}
	}
	return nil
}

// frame is what all packets have in common, with address and port of flow 0. The
// checksums of the IPv4 header and of TCP are left out; UDP's is 0, which in IPv4
// means that there is none, and in IPv6 is wrong: programs do not look.
func (t Traffic) frame() []byte {
	f := make([]byte, t.atPayload()+t.Payload)
	copy(f, t.Dst[:])
	copy(f[6:], t.Src[:])
	proto := byte(6)
	if t.UDP {
		proto = 17
	}
	ip := f[atIP:]
	src, dst := t.Client.Addr().AsSlice(), t.Service.Addr().AsSlice()
	if t.six() {
		binary.BigEndian.PutUint16(f[12:], 0x86dd)
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		copy(ip[8:], src)
		copy(ip[24:], dst)
	} else {
		binary.BigEndian.PutUint16(f[12:], 0x0800)
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
		l4[12], l4[13] = 5<<4, ACK
		if t.Flags != 0 {
			l4[13] = t.Flags
		}
		binary.BigEndian.PutUint16(l4[14:], 0xffff)
	}
	return f
}

// The words of a generator's state.
const (
	stateLeft  = iota // packets that are to be sent yet
	stateSent         // packets that were sent
	stateStop         // not 0: send no more
	stateWhich        // which flow is next: the random sequence's state, or a count
	stateWords
)

// Knuth's multiplier and increment for a sequence of 64 bits (MMIX).
const randomMul, randomAdd = 6364136223846793005, 1442695040888963407

// assemble is the generator's program. R6 is its state, R7 the frame, R8 the
// flow's number.
func (g *Generator) assemble() asm.Instructions {
	t, frame := g.t, g.frame
	const drop = 1 // XDP_DROP
	out := asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, int32(len(frame))),
		asm.JGT.Reg(asm.R1, asm.R2, "drop"), // never: for the verifier
		asm.LoadMapValue(asm.R6, g.state.FD(), 0),
		asm.LoadMem(asm.R1, asm.R6, stateStop*8, asm.DWord),
		asm.JNE.Imm(asm.R1, 0, "drop"),
		asm.LoadMem(asm.R1, asm.R6, stateLeft*8, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "drop"),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(asm.R6, stateLeft*8, asm.R1, asm.DWord),
	}
	out = append(out, g.draw()...)
	// All of the header, as frames are used again as they came back.
	header := t.atPayload()
	for at := 0; at < header; {
		var size asm.Size
		var value int64
		switch left := header - at; {
		case left >= 8:
			size, value = asm.DWord, int64(binary.NativeEndian.Uint64(frame[at:]))
		case left >= 4:
			size, value = asm.Word, int64(binary.NativeEndian.Uint32(frame[at:]))
		default:
			size, value = asm.Half, int64(binary.NativeEndian.Uint16(frame[at:]))
		}
		out = append(out, asm.LoadImm(asm.R1, value, asm.DWord), asm.StoreMem(asm.R7, int16(at), asm.R1, size))
		at += size.Sizeof()
	}
	out = append(out,
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.RSh.Imm(asm.R1, int32(t.PortBits)),
		asm.Add.Imm32(asm.R1, int32(g.first())),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
	)
	if t.six() {
		out = append(out, asm.StoreMem(asm.R7, atIP+8+12, asm.R2, asm.Word))
	} else {
		out = append(out, asm.StoreMem(asm.R7, atIP+12, asm.R2, asm.Word))
		out = append(out, g.checksum()...)
	}
	if t.PortBits > 0 {
		out = append(out,
			asm.Mov.Reg(asm.R1, asm.R8),
			asm.And.Imm(asm.R1, int32(t.portMask())),
			asm.Add.Imm(asm.R1, int32(t.Client.Port())),
			asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.StoreMem(asm.R7, int16(t.atTransport()), asm.R1, asm.Half),
		)
	}
	if !t.UDP {
		out = append(out, g.tcpChecksum()...)
	}
	out = append(out, asm.LoadMem(asm.R1, asm.R6, stateSent*8, asm.DWord))
	if t.Sequence {
		out = append(out,
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.HostTo(asm.BE, asm.R2, asm.DWord),
			asm.StoreMem(asm.R7, int16(header), asm.R2, asm.DWord),
		)
	}
	return append(out,
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R6, stateSent*8, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, int32(g.end.Index)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"),
		asm.Return(),
	)
}

// draw leaves the number of the packet's flow in R8, and counts it.
func (g *Generator) draw() (out asm.Instructions) {
	n := g.t.Flows
	if g.pick != nil {
		n = uint32(len(g.t.Pick))
	}
	out = append(out, asm.LoadMem(asm.R8, asm.R6, stateWhich*8, asm.DWord), asm.LoadImm(asm.R2, int64(n), asm.DWord))
	if g.t.Random {
		out = append(out,
			asm.LoadImm(asm.R1, randomMul, asm.DWord),
			asm.Mul.Reg(asm.R8, asm.R1),
			asm.LoadImm(asm.R1, randomAdd, asm.DWord),
			asm.Add.Reg(asm.R8, asm.R1),
			asm.StoreMem(asm.R6, stateWhich*8, asm.R8, asm.DWord),
			asm.RSh.Imm(asm.R8, 32),
			asm.Mul.Reg(asm.R8, asm.R2),
			asm.RSh.Imm(asm.R8, 32),
		)
	} else {
		out = append(out,
			asm.Mov.Reg(asm.R1, asm.R8),
			asm.Add.Imm(asm.R1, 1),
			asm.JLT.Reg(asm.R1, asm.R2, "next"),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.R6, stateWhich*8, asm.R1, asm.DWord).WithSymbol("next"),
		)
	}
	if g.pick != nil {
		out = append(out,
			asm.JGE.Reg(asm.R8, asm.R2, "drop"), // never: for the verifier
			asm.LSh.Imm(asm.R8, 2),
			asm.LoadMapValue(asm.R1, g.pick.FD(), 0),
			asm.Add.Reg(asm.R1, asm.R8),
			asm.LoadMem(asm.R8, asm.R1, 0, asm.Word),
		)
	}
	if g.counts != nil {
		out = append(out,
			asm.LoadImm(asm.R2, int64(g.t.Flows), asm.DWord),
			asm.JGE.Reg(asm.R8, asm.R2, "drop"), // never: for the verifier
			asm.Mov.Reg(asm.R2, asm.R8),
			asm.LSh.Imm(asm.R2, 3),
			asm.LoadMapValue(asm.R1, g.counts.FD(), 0),
			asm.Add.Reg(asm.R1, asm.R2),
			asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
			asm.Add.Imm(asm.R2, 1),
			asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
		)
	}
	return out
}

// checksum writes that of the IPv4 header, whose source address is in R1: the sum
// of all else is known.
func (g *Generator) checksum() asm.Instructions {
	var rest uint32
	for i, b := range g.frame[atIP : atIP+20] {
		if i < 12 || i >= 16 {
			rest += uint32(b) << (8 * (1 - i&1))
		}
	}
	out := asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 16),
		asm.And.Imm(asm.R1, 0xffff),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.Add.Imm(asm.R1, int32(rest)),
	}
	for range 2 {
		out = append(out, asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 16), asm.And.Imm(asm.R1, 0xffff), asm.Add.Reg(asm.R1, asm.R2))
	}
	return append(out,
		asm.Xor.Imm(asm.R1, 0xffff),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.R7, atIP+10, asm.R1, asm.Half),
	)
}
