package program

import (
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
)

// registers is a set of them, a bit each.
type registers uint16

func (s registers) has(r asm.Register) bool { return s>>r&1 != 0 }

func (s registers) String() string {
	var list []string
	for r := asm.R0; r <= asm.R9; r++ {
		if s.has(r) {
			list = append(list, r.String())
		}
	}
	return strings.Join(list, " ")
}

func set(list ...asm.Register) (s registers) {
	for _, r := range list {
		s |= 1 << r
	}
	return s &^ (1 << asm.RFP)
}

// arguments is how many registers from R1 on a helper function reads.
var arguments = map[asm.BuiltinFunc]int{
	asm.FnMapLookupElem: 2, asm.FnJiffies64: 0, asm.FnGetSmpProcessorId: 0, asm.FnRedirect: 2, asm.FnRedirectMap: 3, asm.FnGetPrandomU32: 0,
	asm.FnSkbPullData: 2, asm.FnCsumUpdate: 2, asm.FnSkbVlanPop: 1, asm.FnCloneRedirect: 3, asm.FnCheckMtu: 5,
}

// effects are what an instruction reads and writes.
func effects(t *testing.T, i asm.Instruction) (reads, writes registers) {
	op := i.OpCode
	switch class := op.Class(); {
	case class == asm.LdClass:
		return 0, set(i.Dst)
	case class == asm.LdXClass:
		return set(i.Src), set(i.Dst)
	case class == asm.StClass:
		return set(i.Dst), 0
	case class == asm.StXClass && op.Mode() == asm.AtomicMode:
		if asm.AtomicOp(i.Constant<<8)&0xf000 == 0xf000 { // compare and swap
			return set(i.Dst, i.Src, asm.R0), set(asm.R0)
		}
		return set(i.Dst, i.Src), set(i.Src)
	case class == asm.StXClass:
		return set(i.Dst, i.Src), 0
	case op.JumpOp() == asm.Exit && class.IsJump():
		return set(asm.R0), 0
	case op.JumpOp() == asm.Call && class.IsJump():
		n, known := arguments[asm.BuiltinFunc(i.Constant)]
		if !known {
			t.Fatalf("%v: how many arguments does it have?", i)
		}
		for r := range n {
			reads |= set(asm.R1 + asm.Register(r))
		}
		return reads, set(asm.R0, asm.R1, asm.R2, asm.R3, asm.R4, asm.R5)
	case class.IsJump():
		if op.JumpOp() != asm.Ja {
			reads = set(i.Dst)
			if op.Source() == asm.RegSource {
				reads |= set(i.Src)
			}
		}
		return reads, 0
	case class.IsALU():
		switch op.ALUOp() {
		case asm.Mov:
		case asm.Swap, asm.Neg:
			return set(i.Dst), set(i.Dst)
		default:
			reads = set(i.Dst)
		}
		if op.Source() == asm.RegSource {
			reads |= set(i.Src)
		}
		return reads, set(i.Dst)
	}
	t.Fatalf("%v: what does it read and write?", i)
	return 0, 0
}

// use is what a step's instructions take, before they have written it, and what they
// write.
type use struct{ takes, writes registers }

func useOf(t *testing.T, list asm.Instructions) (u use) {
	for _, i := range list {
		reads, writes := effects(t, i)
		u.takes |= reads &^ u.writes
		u.writes |= writes
	}
	return u
}

// variants are programs in which every step is.
func variants() map[string]*Config {
	base := func() *Config {
		shape := accel.TableShape{Seed: [6]uint64{1, 2, 3, 4, 5, 6}, Homes: 1000, Slots: 1500}
		return &Config{
			Acceleration: accel.Acceleration{TableShape: shape, Templates: shape, Hz: 250},
			Conns:        1, Servers: 2, Counts: 3, Settings: 4, CPUs: 2, ServersPerCPU: 64, Ifindex: 1, Path: Forward(),
			MACs: []dataplane.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}, Ticks: Ticks{Mul: 250, Div: 1000, Offset: 7},
		}
	}
	opens := base()
	opens.Sockets, opens.Claims, opens.Services, opens.Sequences, opens.TemplateTable, opens.Rings, opens.Crossings = 5, 6, 7, 11, 8, 9, 12
	opens.Queues, opens.GivesBack = 4, true
	weak := *opens
	weak.WeakOrder = true
	helper := base()
	helper.LookupHelper = true
	hashed := base()
	hashed.Hashed, hashed.HashedWords = 10, 5
	bench := base()
	bench.Path = []Step{(*Program).TakeServer, (*Program).Back, (*Program).send}
	tc := *opens
	tc.Hook, tc.Private, tc.Sockets = TC, 3, 0
	behind := *opens
	behind.Behind = true
	return map[string]*Config{"base": base(), "opens": opens, "weak": &weak, "behind": &behind, "tc": &tc, "helper": helper,
		"hashed": hashed, "bench": bench}
}

// names are the registers that have one.
var names = map[string]asm.Register{
	"addrs": addrs, "ports": ports, "kept": kept, "word": word, "data": data, "end": end, "total": total,
	"dest": dest, "slot": slot, "service": service, "rings": rings, "entry": entry,
}

// contract is what a step's comment says.
type contract struct{ in, out, lost registers }

var line = regexp.MustCompile(`(?m)^in: (.*); out: (.*); lost: (.*)$`)

func parseRegisters(text string) (s registers, err error) {
	for _, word := range strings.Fields(text) {
		if word == "-" {
			continue
		}
		r, named := names[word]
		if !named {
			if _, err := fmt.Sscanf(word, "R%d", &r); err != nil {
				return 0, fmt.Errorf("%q is no register", word)
			}
		}
		s |= set(r)
	}
	return s, nil
}

// contracts are the last lines of the comments of this package's methods, by name.
func contracts(t *testing.T) map[string]contract {
	t.Helper()
	all := map[string]contract{}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := goparser.ParseFile(token.NewFileSet(), name, nil, goparser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Doc == nil {
				continue
			}
			m := line.FindStringSubmatch(strings.TrimSpace(fn.Doc.Text()))
			if m == nil {
				continue
			}
			var c contract
			for i, to := range []*registers{&c.in, &c.out, &c.lost} {
				if *to, err = parseRegisters(m[i+1]); err != nil {
					t.Errorf("%s: %v", fn.Name.Name, err)
				}
			}
			all[fn.Name.Name] = c
		}
	}
	return all
}

// breaches are where steps do not keep to what their comments say.
func breaches(t *testing.T, all map[string]contract) (list []string) {
	used := map[string]use{}
	for _, v := range variants() {
		p := v.assemble(false)
		for _, s := range p.steps {
			u := useOf(t, p.out[s.first:s.end])
			was := used[s.name]
			used[s.name] = use{was.takes | u.takes, was.writes | u.writes}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		u := used[name]
		c, said := all[name]
		switch written := c.out | c.lost; {
		case !said:
			list = append(list, fmt.Sprintf("%s says nothing: in: %v; writes: %v", name, u.takes, u.writes))
		case u.takes != c.in:
			list = append(list, fmt.Sprintf("%s takes %v, and says %v", name, u.takes, c.in))
		case u.writes != written:
			list = append(list, fmt.Sprintf("%s writes %v, and says %v", name, u.writes, written))
		case c.out&c.lost != 0:
			list = append(list, fmt.Sprintf("%s gives and loses %v", name, c.out&c.lost))
		}
	}
	return list
}

// TestRegisters holds the last line of each step's comment against its instructions: what
// it reads before it has written it, and what it writes.
func TestRegisters(t *testing.T) {
	all := contracts(t)
	for _, b := range breaches(t, all) {
		t.Error(b)
	}
}

// A step that says too little is found.
func TestRegistersFinds(t *testing.T) {
	all := contracts(t)
	c := all["stampEntry"]
	c.lost &^= set(asm.R1)
	all["stampEntry"] = c
	if found := breaches(t, all); len(found) != 1 || !strings.Contains(found[0], "stampEntry writes") {
		t.Errorf("found %q", found)
	}
}
