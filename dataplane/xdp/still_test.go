package xdp

import (
	"encoding/binary"
	"errors"
	"flag"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
)

// still is a plane whose program is run by hand, at a time that stands still, and whose
// memory outlives a director.
type still struct {
	*Plane
	sockets *ebpf.Map
	prog    *ebpf.Program
	shape   accel.Acceleration
	now     time.Duration
	clock   *array // where the program reads the time
	// loaded is what load has loaded last, and which program that is.
	loaded     asm.Instructions
	loadedProg *ebpf.Program
	parts      []accel.Part
	path       []program.Step // or nil: program.Forward's
	// compared is how many real servers are compared at most, if more than a few.
	compared int
	weak     bool // program.Config.WeakOrder, where it need not be
}

// byHook has all programs that are run by hand be TC's.
var byHook = flag.Bool("tc", false, "run the programs as those of TC's hook")

// TestOnTC plays tests of programs that are run by hand with those of TC's hook: headers, states of TCP
// and SCTP, what they open, rules. (The outermost VLAN tag is beside the frame there, and no test by hand can put it there.)
func TestOnTC(t *testing.T) {
	if *byHook {
		t.Skip("all are")
	}
	tests := []string{"TestForwards", "TestLeavesStatesToGo", "TestLeavesSCTPToGo", "TestTold", "TestMadeLeft"}
	out, err := exec.Command("/proc/self/exe", "-tc", "-test.v", "-test.run", "^("+strings.Join(tests, "|")+")$").CombinedOutput()
	for _, name := range tests {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass", name)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s", err, out)
	}
}

// hookOf is where programs are.
func hookOf() program.Hook {
	if *byHook {
		return program.TC
	}
	return program.XDP
}

// inHook has a program be one of hookOf, and returns its type.
func inHook(source *program.Config) (kind ebpf.ProgramType) {
	if source.Hook = hookOf(); source.Hook == program.TC {
		source.Sockets = 0
		return ebpf.SchedCLS
	}
	return ebpf.XDP
}

// newProgram loads a program that is run by hand.
func newProgram(source *program.Config) (*ebpf.Program, error) {
	kind := inHook(source)
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: ProgramName, Type: kind, License: "GPL", Instructions: source.Assemble()})
}

// runByHand gives a program a frame that came in on lo, and returns XDP's action and what the frame is then. At TC's hook the
// outermost VLAN tag is beside the frame.
func runByHand(prog *ebpf.Program, frame []byte) (action uint32, out []byte, err error) {
	if !*byHook {
		o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Context: testContext(len(frame))}
		action, err = prog.Run(o)
		return action, o.DataOut, err
	}
	const tag, at = 4, 12
	frame = slices.Clone(frame)
	var tagged []byte
	if kind := binary.BigEndian.Uint16(frame[at:]); kind == 0x8100 || kind == 0x88a8 {
		tagged = slices.Clone(frame[at : at+tag])
		frame = slices.Delete(frame, at, at+tag)
	}
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64)}
	action, err = prog.Run(o)
	const redirect = 7 // TC_ACT_REDIRECT
	switch int32(action) {
	case redirect:
		action = program.ActionTX
	case -1:
		action = program.ActionPass
	}
	if out = o.DataOut; tagged != nil {
		out = slices.Insert(out, at, tagged...)
	}
	return action, out, err
}

func (s *still) Memory(parts []accel.Part) (kept bool, err error) {
	if s.parts == nil {
		kept, err = s.Plane.Memory(parts)
		for i := range parts {
			if parts[i].Journal { // for which a plane without pins has no memory
				parts[i].Block = make([]byte, parts[i].Size)
			}
		}
		s.parts = slices.Clone(parts)
		return kept, err
	}
	for i := range parts {
		parts[i].Block = s.parts[i].Block
	}
	return true, errors.Join(closeRings(s.Plane), s.Grace())
}

// Replace is for the journal.
func (s *still) Replace(part string, size int, fill func([]byte) error) error {
	block := make([]byte, size)
	err := fill(block)
	for i := range s.parts {
		if s.parts[i].Name == part && err == nil {
			s.parts[i].Block = block
		}
	}
	return err
}

func (s *still) Accelerate(a accel.Acceleration) error {
	s.shape = a
	return s.load()
}

// mostCompared is how many real servers the program compares: few take the verifier a tenth of the time.
func (s *still) mostCompared() int { return max(s.compared, 2*pairServers) }

// load loads the program, if it is another one than before, and moves its clock.
func (s *still) load() error {
	s.moveClock()
	source := s.source(s.shape, program.Ticks{Mul: hz, Div: hz}, 1, []dataplane.MAC{own}, s.sockets)
	source.Compared = s.mostCompared()
	source.WeakOrder = source.WeakOrder || s.weak
	if s.path != nil {
		source.Path = s.path
	}
	kind := inHook(source)
	list := reading(s.clock, source.Assemble())
	if s.prog != nil && s.prog == s.loadedProg && reflect.DeepEqual(list, s.loaded) {
		return nil // the verifier takes longer than all else does
	}
	if s.prog != nil {
		_ = s.prog.Close()
	}
	var err error
	s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: ProgramName, Type: kind, License: "GPL", Instructions: list})
	s.loaded, s.loadedProg = list, s.prog
	return err
}

// moveClock has the program's time be the director's.
func (s *still) moveClock() {
	binary.NativeEndian.PutUint64(s.clock.memory, uint64(s.now/(time.Second/hz)))
}

// reading is a program that reads the time from a clock, and not the kernel's.
func reading(clock *array, list asm.Instructions) (out asm.Instructions) {
	for _, in := range list {
		if in.OpCode != asm.FnJiffies64.Call().OpCode || in.Constant != int64(asm.FnJiffies64) {
			out = append(out, in)
			continue
		}
		out = append(out, asm.LoadMapValue(asm.R0, clock.FD(), 0).WithSymbol(in.Symbol()), asm.LoadMem(asm.R0, asm.R0, 0, asm.DWord))
	}
	return out
}

// unlimited is a plane in memory whose host answers as often as it is asked: what is limited
// depends on who has answered before.
func unlimited() *dataplanetest.Plane {
	p := dataplanetest.New()
	p.SetErrorLimits(dataplane.ErrorLimits{}, nil)
	return p
}
