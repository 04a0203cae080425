package xdp

import (
	"encoding/binary"
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/packet"
)

// The flows of TestWriters are chosen by where their keys lie.
//
// Each crowd has a home slot of its own, and the other one of its pair: seven
// connections come first and stay, one of them at the end of the chain; of seven
// more, five at a time come and go, so that the chain is as long as programs look. There are so many crowds that overflow slots are
// short: one that is released is taken at once, often by another chain. A reader that
// stood on it would go astray. The first crowd has a quarter of the packets, and half of
// the changes.
//
// Swappers are two flows of one home, alone in its pair. They come together, in
// turns the one first and the other, and go at once, so that each slot gets the key
// that the other one had: a packet of the key before, of which half of all packets
// are, must not find the new word with it.
//
// Loose flows lie as chance has them.
const (
	crowds, crowdSize, crowdStay, crowdLive = 120, crowdLive + 2, crowdLive - 5, 2 + program.MaxChain
	swaps                                   = 32
	loose, looseStay, looseSize             = 400, 100, 6 // the last: most in a home, of those that are chosen

	// Numbers of flows are below flowSpace, so that most homes have enough for a crowd.
	flowSpace = 1 << 16
	// Real servers are 1 to lastServer, by the flow's number.
	lastServer = 61
)

func serverOf(flow uint32) uint32 { return flow%lastServer + 1 }

func macOf(server uint32) dataplane.MAC { return dataplane.MAC{2, 0, 0, 0, 1, byte(server)} }

// visitor is a flow, and its connection.
type visitor struct {
	flow uint32
	home uint32 // slot (shtab.Table.homeOf)
	key  packet.Flow
	hash uint64
	id   conn.ID
	live bool
}

func (w *writers) visitor(flow uint32) *visitor {
	c := &visitor{flow: flow, key: packet.NewFlow(program.ProtoUDP, w.traffic.ClientOf(flow), w.traffic.Service)}
	c.hash = w.conns.Hash(&c.key)
	at, _ := bits.Mul64(c.hash&^0xffff_ffff, uint64(len(w.count)))
	c.home = uint32(at)
	return c
}

// choose fills the lists of flows.
func (w *writers) choose() {
	_, homes := w.conns.Seed()
	w.count = make([]int, homes)
	byHome := make([][]*visitor, homes)
	had := make([]int, homes)
	for flow := range uint32(flowSpace) {
		v := w.visitor(flow)
		byHome[v.home] = append(byHome[v.home], v)
	}
	pair := 0 // the next pair's first slot
	take := func(n int) []*visitor {
		for ; len(byHome[pair]) < n; pair += 2 {
		}
		list := byHome[pair][:n]
		w.all = append(w.all, list...)
		pair += 2
		return list
	}
	for range crowds {
		list := take(crowdSize)
		w.stay = append(w.stay, list[:crowdStay]...)
		w.come = append(w.come, list[crowdStay:]...)
	}
	w.first = w.all[:crowdSize]
	for range swaps {
		w.swap = append(w.swap, take(2)...)
	}
	for flow, n := uint32(0), 0; n < loose; flow++ {
		v := w.visitor(flow)
		if int(v.home) < pair || had[v.home] == looseSize {
			continue
		}
		had[v.home]++
		w.all = append(w.all, v)
		if n++; n <= looseStay {
			w.stay = append(w.stay, v)
		} else {
			w.come = append(w.come, v)
		}
	}
}

// shares is what the generator picks from: each flow, as often one of the first
// crowd, and two of the swappers.
func (w *writers) shares() (list []uint32) {
	for i, v := range w.all {
		list = append(list, v.flow, w.first[i%crowdSize].flow, w.swap[2*i%len(w.swap)].flow, w.swap[(2*i+1)%len(w.swap)].flow)
	}
	return list
}

// coldKey is a key in a page of its own.
type coldKey struct {
	packet.Flow
	_ [4096 - 40]byte
}

// freeze writes down the keys of the swappers in the order in which they are needed,
// in so many places that none is in the cache when it is its turn: what an insertion
// writes before the key and after it is then apart by more than an instant.
func (w *writers) freeze() {
	const rounds = 128 // even
	w.cold = make([]coldKey, rounds*len(w.swap))
	for i := range w.cold {
		w.cold[i].Flow = w.swapper(i/len(w.swap), i%len(w.swap)).key
	}
}

// swapper is the i-th to come in a round: of each two, in turns the one and the
// other.
func (w *writers) swapper(round, i int) *visitor { return w.swap[i^round&1] }

// swapAll has the swappers come and go.
func (w *writers) swapAll() {
	for i := range w.swap {
		w.insertAs(w.swapper(w.round, i), &w.cold[(w.round*len(w.swap)+i)%len(w.cold)].Flow)
	}
	w.round++
	for _, v := range w.swap {
		if v.live {
			w.remove(v)
		}
	}
	w.pending = append(w.pending, w.conns.Retired()...)
}

// judge is the sink's room of a frame: its flow's number if it went to that flow's
// server, else the last one, and the frame is kept.
func (w *writers) judge() asm.Instructions {
	var err error
	w.wrong, err = newArray("ulvs_wrong", 64)
	w.must(err)
	w.t.Cleanup(w.wrong.close)
	at, first := int16(14+12), w.traffic.Client.Addr().AsSlice()
	if len(first) == 16 {
		at = 14 + 8 + 12
	}
	port := at + 8
	if len(first) == 16 {
		port = at + 4 + 16
	}
	first = first[len(first)-4:]
	to := macOf(0)
	out := asm.Instructions{
		asm.Mov.Reg(asm.R1, wire.FrameReg),
		asm.Add.Imm(asm.R1, 64),
		asm.JGT.Reg(asm.R1, wire.EndReg, wire.Other),
		asm.LoadMem(asm.R9, wire.FrameReg, at, asm.Word),
		asm.HostTo(asm.BE, asm.R9, asm.Word),
		asm.Sub.Imm32(asm.R9, int32(be32(first))),
		asm.LSh.Imm(asm.R9, int32(w.traffic.PortBits)),
		asm.LoadMem(asm.R1, wire.FrameReg, port, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.Sub.Imm(asm.R1, int32(w.traffic.Client.Port())),
		asm.Add.Reg(asm.R9, asm.R1),
		asm.Mov.Reg(asm.R3, asm.R9),
		asm.Mod.Imm(asm.R3, lastServer),
		asm.Add.Imm(asm.R3, 1),
		asm.LoadMem(asm.R1, wire.FrameReg, 0, asm.Word),
		asm.JNE.Imm(asm.R1, int32(binary.LittleEndian.Uint32(to[:4])), "wrong"),
		asm.LoadMem(asm.R1, wire.FrameReg, 4, asm.Byte),
		asm.JNE.Imm(asm.R1, int32(to[4]), "wrong"),
		asm.LoadMem(asm.R1, wire.FrameReg, 5, asm.Byte),
		asm.JEq.Reg(asm.R1, asm.R3, "judged"),
		asm.LoadMapValue(asm.R2, w.wrong.FD(), 0).WithSymbol("wrong"),
	}
	for i := int16(0); i < 64; i += 8 {
		out = append(out, asm.LoadMem(asm.R1, wire.FrameReg, i, asm.DWord), asm.StoreMem(asm.R2, i, asm.R1, asm.DWord))
	}
	return append(out, asm.Mov.Imm(asm.R9, flowSpace), asm.Mov.Reg(asm.R0, asm.R9).WithSymbol("judged"))
}

func be32(b []byte) uint32 { return bits.ReverseBytes32(binary.LittleEndian.Uint32(b)) }
