package xdp

import (
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

// loadWith is load with a piece before each instruction that has a label.
func (s *still) loadWith(label string, piece asm.Instructions) error {
	source := s.source(s.shape, program.Ticks{Mul: 0, Div: 1, Offset: uint32(s.now / (time.Second / hz))}, 1, []dataplane.MAC{own}, s.sockets)
	source.Compared = s.mostCompared()
	var out asm.Instructions
	for _, i := range source.Assemble() {
		if at := i.Symbol(); strings.HasPrefix(at, label+".") || strings.HasPrefix(at, label+"6.") {
			i = i.WithSymbol("")
			out = append(append(out, piece[0].WithSymbol(at)), piece[1:]...)
		}
		out = append(out, i)
	}
	_ = s.prog.Close()
	var err error
	s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: ProgramName, Type: ebpf.XDP, License: "GPL", Instructions: out})
	return err
}

// A program that is held up behind the comparison of the serial, until the number is that of another
// service which is open, opens no connection to that one's real servers.
func TestRenumbered(t *testing.T) {
	// What there is when the service was deleted, and its number was given to another one that has two
	// real servers as well.
	const service, scratch, cycle = asm.R6, asm.R2, 1 << 31
	add := func(off int16, n int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(scratch, service, off, asm.Word),
			asm.Add.Imm(scratch, n),
			asm.StoreMem(service, off, scratch, asm.Word),
		}
	}
	renewed := append(add(preselect.OffSerial, 1), add(preselect.OffVersion, 2)...)
	reopened := append(renewed,
		asm.StoreMem(service, preselect.OffPosition+4, scratch, asm.Word),
		asm.LoadMem(scratch, service, preselect.OffPosition+7, asm.Byte),
		asm.Or.Imm(scratch, cycle>>24),
		asm.StoreMem(service, preselect.OffPosition+7, scratch, asm.Byte),
		asm.Mov.Imm(scratch, 0),
		asm.StoreMem(service, preselect.OffPosition, scratch, asm.Word),
	)
	for _, tt := range []struct {
		scheduler, at string
		persistence   time.Duration
		meanwhile     asm.Instructions
	}{
		{"rr", "pick", 0, reopened},
		{"sh", "pick", 0, renewed},
		{"rr", "templated", time.Minute, renewed},
	} {
		t.Run(tt.scheduler+" "+tt.at, func(t *testing.T) {
			w := newPair(t, 1)
			k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
			w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: tt.scheduler,
				Persistence: ulvs.Persistence{Timeout: tt.persistence}}))
			for i := range 2 {
				w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, i), Port: 80, Weight: 1}))
			}
			syn := shape{proto: layers.IPProtocolTCP, flags: "S", to: 80}
			frame := func(port uint16) []byte {
				syn.port = port
				return syn.frame(t)
			}
			w.fate(w.fast, frame(999)) // a hop is known
			w.must(w.still.load())
			opened := func(port uint16) bool {
				f := frame(port)
				action, _, err := runByHand(w.still.prog, f)
				w.must(err)
				return action == program.ActionTX
			}
			if !opened(1000) {
				t.Fatal("the program opens nothing")
			}
			w.must(w.still.loadWith(tt.at, tt.meanwhile))
			if opened(1001) {
				t.Error("a connection was opened by what is another service's by now")
			}
		})
	}
}
