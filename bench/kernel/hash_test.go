package kernel

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// What a flow's entry in the hash map holds.
const (
	hashPackets = 0
	hashStamp   = 8
	hashMACs    = 16
	hashServer  = 28
	hashEntry   = 32
)

// startHash has an XDP program forward from a BPF hash map, the way that others
// forward: it does for an established packet what a director must (it looks at the
// TCP flags, stamps the flow, counts it, the server and the service, takes one off
// the time to live), and knows IPv4 without options only.
func startHash(s *site) {
	flows, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: hashEntry, MaxEntries: 1 << 18})
	s.must(err)
	s.Cleanup(func() { flows.Close() })
	counts, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: 16 * hashServers, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	})
	s.must(err)
	s.Cleanup(func() { counts.Close() })
	t, reals := s.steps()[0], uint32(len(s.reals()))
	for i := range s.flows {
		from, server := t.ClientOf(i), 1+i%reals
		key := append(from.Addr().AsSlice(), s.virtual().Addr().AsSlice()...)
		key = binary.BigEndian.AppendUint16(key, from.Port())
		key = binary.BigEndian.AppendUint16(key, s.virtual().Port())
		key = append(key, unix.IPPROTO_TCP, 0, 0, 0)
		entry := make([]byte, hashEntry)
		copy(entry[hashMACs:], lab.MAC(server))
		copy(entry[hashMACs+6:], s.director.MAC)
		binary.NativeEndian.PutUint32(entry[hashServer:], server)
		s.must(flows.Put(key, entry))
	}
	s.program(hashForwarder(flows.FD(), counts.FD()))
}

// hashServers is how many servers are counted; number 0 is the service.
const hashServers = 64

func hashForwarder(flows, counts int) asm.Instructions {
	const (
		frame, end, entry, total = asm.R6, asm.R7, asm.R8, asm.R9

		atIP, atTCP = 14, 34
		key         = -16 // on the stack
	)
	count := func(server asm.Instructions) asm.Instructions {
		return append(server,
			asm.LSh.Imm(asm.R1, 4),
			asm.LoadMapValue(asm.R2, counts, 0),
			asm.Add.Reg(asm.R2, asm.R1),
			asm.LoadMem(asm.R1, asm.R2, 0, asm.DWord),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R2, 0, asm.R1, asm.DWord),
			asm.LoadMem(asm.R1, asm.R2, 8, asm.DWord),
			asm.Add.Reg(asm.R1, total),
			asm.StoreMem(asm.R2, 8, asm.R1, asm.DWord),
		)
	}
	list := asm.Instructions{
		asm.LoadMem(frame, asm.R1, 0, asm.Word),
		asm.LoadMem(end, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R1, frame),
		asm.Add.Imm(asm.R1, atTCP+20),
		asm.JGT.Reg(asm.R1, end, "pass"),
		asm.LoadMem(asm.R1, frame, 12, asm.Half),
		asm.JNE.Imm(asm.R1, 0x0008, "pass"), // IPv4
		asm.LoadMem(asm.R1, frame, atIP, asm.Byte),
		asm.JNE.Imm(asm.R1, 0x45, "pass"),
		asm.LoadMem(asm.R1, frame, atIP+6, asm.Half),
		asm.And.Imm(asm.R1, 0xff3f),
		asm.JNE.Imm(asm.R1, 0, "pass"), // a fragment
		asm.LoadMem(asm.R1, frame, atIP+8, asm.Byte),
		asm.JLT.Imm(asm.R1, 2, "pass"),
		asm.LoadMem(asm.R1, frame, atIP+9, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "pass"),
		asm.StoreMem(asm.RFP, key+12, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, frame, atTCP+13, asm.Byte),
		asm.And.Imm(asm.R1, 7),
		asm.JNE.Imm(asm.R1, 0, "pass"), // FIN, SYN, RST
		asm.LoadMem(asm.R1, frame, atIP+12, asm.Word),
		asm.StoreMem(asm.RFP, key, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, frame, atIP+16, asm.Word),
		asm.StoreMem(asm.RFP, key+4, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, frame, atTCP, asm.Word),
		asm.StoreMem(asm.RFP, key+8, asm.R1, asm.Word),
		asm.LoadMem(total, frame, atIP+2, asm.Half),
		asm.HostTo(asm.BE, total, asm.Half),
		asm.LoadMapPtr(asm.R1, flows),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(entry, asm.R0),
		asm.LoadMem(asm.R1, entry, hashPackets, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(entry, hashPackets, asm.R1, asm.DWord),
		asm.FnJiffies64.Call(),
		asm.StoreMem(entry, hashStamp, asm.R0, asm.DWord),
	}
	list = append(list, count(asm.Instructions{asm.Mov.Imm(asm.R1, 0)})...)
	list = append(list, count(asm.Instructions{
		asm.LoadMem(asm.R1, entry, hashServer, asm.Word),
		asm.JGE.Imm(asm.R1, hashServers, "pass"),
	})...)
	return append(list,
		asm.LoadMem(asm.R1, entry, hashMACs, asm.DWord),
		asm.StoreMem(frame, 0, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, entry, hashMACs+8, asm.Word),
		asm.StoreMem(frame, 8, asm.R1, asm.Word),
		// One off the time to live (ip_decrease_ttl, include/net/ip.h).
		asm.LoadMem(asm.R1, frame, atIP+8, asm.Byte),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(frame, atIP+8, asm.R1, asm.Byte),
		asm.LoadMem(asm.R1, frame, atIP+10, asm.Half),
		asm.Add.Imm(asm.R1, 1),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 16),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.StoreMem(frame, atIP+10, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R0, actionTX),
		asm.Return(),
		asm.Mov.Imm(asm.R0, actionPass).WithSymbol("pass"),
		asm.Return(),
	)
}
