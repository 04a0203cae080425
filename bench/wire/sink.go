package wire

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// The registers and the label that a sink's Room uses.
const (
	// FrameReg is the register with the frame's first byte, EndReg with what follows its
	// last one.
	FrameReg = asm.R7
	EndReg   = asm.R8
	// Other is the label to jump to with a frame that is not to be counted: it goes
	// on to the host.
	Other = "other"
)

// SinkOptions say what a Sink counts. The zero value counts by the last byte of the
// destination's link address.
type SinkOptions struct {
	// Room works out in which room a frame is counted, and leaves its number in R0;
	// it may use R0 to R5, R9 and the stack, and must keep FrameReg and EndReg. 14
	// bytes of the frame are there; it compares with EndReg before it reads more.
	Room asm.Instructions
	// Rooms is how many there are: 0 is 256. Frames whose room is beyond are not
	// counted, and go on to the host.
	Rooms int
	// Stack counts where the host's stack takes frames over (tcx, or before Linux 6.6 clsact), and not
	// in the driver: there, veth would first copy what came from a socket. Only what
	// lies in one piece can be looked at, which may be no more than 14 bytes.
	Stack bool
	// Generic is XDP in front of the stack, for interfaces whose driver has none.
	Generic bool
}

// Sink is a program that counts the frames that come in on an interface, by
// CPU and room, and drops them. Make it with NewSink. It is safe for concurrent
// use.
type Sink struct {
	prog   *ebpf.Program
	link   link.Link
	remove func() // instead of link, or nil
	counts *words[uint64]
	rooms  int
	cpus   int
}

// NewSink attaches a sink to an interface. Errors wrap ErrNotPermitted if the
// process may not load programs.
func NewSink(in End, o SinkOptions) (*Sink, error) {
	if o.Room == nil {
		o.Room = asm.Instructions{asm.LoadMem(asm.R0, FrameReg, 5, asm.Byte)}
	}
	if o.Rooms == 0 {
		o.Rooms = 256
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, permitted(err)
	}
	s := &Sink{rooms: o.Rooms}
	if err := s.open(in, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Sink) open(in End, o SinkOptions) (err error) {
	if s.cpus, err = ebpf.PossibleCPU(); err != nil {
		return fmt.Errorf("cannot read the number of CPUs: %w", err)
	}
	// Two CPUs' rooms are at least a cache line apart.
	if s.counts, err = newWords[uint64]("wire_counts", s.cpus*s.stride()); err != nil {
		return err
	}
	kind := ebpf.XDP
	if o.Stack {
		kind = ebpf.SchedCLS
	}
	s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "wire_sink", Type: kind, License: "GPL", Instructions: s.assemble(o)})
	if err != nil {
		return fmt.Errorf("the sink's program does not load: %w", permitted(err))
	}
	s.link, err = in.attach(s.prog, o)
	if o.Stack && errors.Is(err, ebpf.ErrNotSupported) {
		s.remove, err = in.Classify(s.prog)
	}
	return err
}

func (s *Sink) stride() int { return s.rooms + 8 }

func (s *Sink) assemble(o SinkOptions) asm.Instructions {
	// struct xdp_md: data, data_end; XDP_DROP, XDP_PASS
	data, drop, pass := int16(0), int32(1), int32(2)
	if o.Stack { // struct __sk_buff: data, data_end; TCX_DROP, TCX_PASS
		data, drop, pass = 76, 2, 0
	}
	out := asm.Instructions{
		asm.LoadMem(FrameReg, asm.R1, data, asm.Word),
		asm.LoadMem(EndReg, asm.R1, data+4, asm.Word),
		asm.Mov.Reg(asm.R1, FrameReg),
		asm.Add.Imm(asm.R1, 14),
		asm.JGT.Reg(asm.R1, EndReg, Other),
	}
	out = append(out, o.Room...)
	return append(out,
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.JGE.Imm(asm.R9, int32(s.rooms), Other),
		asm.FnGetSmpProcessorId.Call(),
		asm.JGE.Imm(asm.R0, int32(s.cpus), Other), // never: for the verifier
		asm.Mul.Imm(asm.R0, int32(s.stride())),
		asm.Add.Reg(asm.R0, asm.R9),
		asm.LSh.Imm(asm.R0, 3),
		asm.LoadMapValue(asm.R1, s.counts.FD(), 0),
		asm.Add.Reg(asm.R1, asm.R0),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R0, drop),
		asm.Return(),
		asm.Mov.Imm(asm.R0, pass).WithSymbol(Other),
		asm.Return(),
	)
}

// Count is how many frames were counted in a room.
func (s *Sink) Count(room int) (n uint64) {
	for cpu := range s.cpus {
		n += s.CountOn(cpu, room)
	}
	return n
}

// CPUs is how many CPUs there may be, and CountOn how many frames one of them
// counted in a room.
func (s *Sink) CPUs() int { return s.cpus }

// CountOn is explained at CPUs.
func (s *Sink) CountOn(cpu, room int) uint64 {
	return atomic.LoadUint64(&s.counts.w[cpu*s.stride()+room])
}

// Total is how many frames were counted in all rooms.
func (s *Sink) Total() (n uint64) {
	for room := range s.rooms {
		n += s.Count(room)
	}
	return n
}

// Await waits until total frames were counted. The error says how many were
// when it took too long, or if there were more.
func (s *Sink) Await(total uint64, within time.Duration) error {
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		got := s.Total()
		if got == total {
			return nil
		}
		if got > total || time.Now().After(end) {
			return fmt.Errorf("the sink has seen %d frames, and not %d", got, total)
		}
	}
}

// Close detaches the sink.
func (s *Sink) Close() {
	if s.link != nil {
		_ = s.link.Close()
	}
	if s.remove != nil {
		s.remove()
	}
	if s.prog != nil {
		_ = s.prog.Close()
	}
	s.counts.close()
}
