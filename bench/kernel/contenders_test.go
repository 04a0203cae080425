package kernel

import (
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
)

// contender is something that forwards, or a base: what all that do take besides.
type contender struct {
	name string
	// by is what it hands on; see unit.
	by unit
	// takes reports whether it takes part in a load.
	takes func(load) bool
	// sends: it sends packets on, and what is sent to real servers counts. Otherwise the sink
	// is in the director's place.
	sends bool
	// opens: it has connections, which their first packets are to open.
	opens bool
	// start has it forward between the two ends of a site.
	start func(*site)
}

// unit is what frames are when they come to the sink. Each has a sink and bases of its
// own.
type unit struct{ wire, bare string }

var (
	frames = unit{"wire-xdp", "bare-xdp"} // XDP frames, which XDP's sink counts
	skbs   = unit{"wire-skb", "bare-skb"} // skbs, which the stack's sink counts
)

// reference is whom all are compared with, and fast who hands on XDP frames, but not all.
const reference, fast = "ipvs", "ulvs-native"

var contenders = []contender{
	{name: frames.wire, by: frames, takes: all, start: func(*site) {}},
	{name: frames.bare, by: frames, takes: all, sends: true, start: func(s *site) { s.attach(actionTX) }},
	{name: skbs.wire, by: skbs, takes: all, start: func(s *site) { s.attach(actionPass) }},
	{name: skbs.bare, by: skbs, takes: all, sends: true, start: startRedirect},
	{name: "hash", by: frames, takes: bare, sends: true, start: startHash},
	{name: "forward", by: skbs, takes: bare, sends: true, start: startForward},
	{name: reference, by: skbs, takes: all, sends: true, opens: true, start: startIPVS},
	{name: fast, by: frames, takes: all, sends: true, opens: true, start: inMode(native)},
	{name: "ulvs-tcx", by: skbs, takes: all, sends: true, opens: true, start: inMode(ingress)},
	{name: "ulvs-afpacket", by: skbs, takes: modes, sends: true, opens: true, start: inMode(packets)},
}

func inMode(m mode) func(*site) { return func(s *site) { startUlvs(s, m) } }

func all(load) bool { return true }

func modes(l load) bool { return l.modes }

// bare are the loads for those who know no services.
func bare(l load) bool { return strings.HasPrefix(l.name, "established/") }

func contenderOf(name string) (c contender, ok bool) {
	i := slices.IndexFunc(contenders, func(c contender) bool { return c.name == name })
	if i < 0 {
		return c, false
	}
	return contenders[i], true
}

// attach puts a program of a single verdict in front of the director.
func (s *site) attach(verdict int32) {
	s.Helper()
	s.program(asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()})
}

// XDP's verdicts.
const (
	actionPass = 2
	actionTX   = 3
)

// program puts an XDP program in front of the director.
func (s *site) program(list asm.Instructions) {
	s.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: list})
	s.must(err)
	s.Cleanup(func() { p.Close() })
	l, err := s.director.Attach(p)
	s.must(err)
	s.Cleanup(func() { l.Close() })
}

// startRedirect sends each skb back where the stack takes it from the interface.
func startRedirect(s *site) {
	s.attach(actionPass)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(s.director.Index)),
		asm.Mov.Imm(asm.R2, 0), // out of it
		asm.FnRedirect.Call(),
		asm.Return(),
	}})
	s.must(err)
	s.Cleanup(func() { p.Close() })
	remove, err := s.director.Classify(p)
	s.must(err)
	s.Cleanup(remove)
}

// startForward has a route to the virtual address by way of a real server.
func startForward(s *site) {
	s.attach(actionPass)
	s.must(s.director.Space.Netlink().RouteAdd(&netlink.Route{
		LinkIndex: s.director.Index, Dst: ipNet(host(s.virtual().Addr())), Gw: s.reals()[0].AsSlice(),
	}))
}
