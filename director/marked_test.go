package director

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/packet"
)

// Claims lead a packet to the service that it has by its mark or address, to Go, or past: at
// random, against the rules and services themselves.
func TestMarkedClaims(t *testing.T) {
	byMark, byAddr, past, undecided, followed := 0, 0, 0, 0, 0
	for seed := range uint64(300) {
		w := &claimWorld{t: t, rng: rand.New(rand.NewPCG(seed, 9)), number: map[uint32]ulvs.ServiceKey{}}
		w.build()
		for range 300 {
			found, want := w.claim(), w.service()
			if found != nil && found.List != nil {
				followed++
				found = w.follow(found)
			}
			switch {
			case found == nil && want.Mark == 0 && want != (ulvs.ServiceKey{}):
				w.fail("nobody", want)
			case found == nil && want.Mark != 0 && !w.open:
				w.fail("the host", want)
			case found == nil:
				past++
			case found.Service == dataplane.Undecided:
				undecided++
			case found.Service == dataplane.Elsewhere && want != (ulvs.ServiceKey{}) && want.Mark == 0:
				w.fail("past the director", want)
			case found.Service == dataplane.Elsewhere:
				past++
			case w.number[found.Service] != want:
				w.fail(fmt.Sprint(w.number[found.Service]), want)
			case want.Mark != 0:
				byMark++
			default:
				byAddr++
			}
		}
	}
	t.Logf("%d by mark, %d by address, %d past, %d undecided; %d followed a list", byMark, byAddr, past, undecided, followed)
	if byMark < 1500 || byAddr < 5000 || past < 5000 || followed < 1500 || undecided < 100 || undecided > 5000 {
		t.Error("the test compares too little")
	}
}

// claimWorld are services, rules, and one packet at a time.
type claimWorld struct {
	t      *testing.T
	rng    *rand.Rand
	rules  []string
	set    *fwmark.Set
	keys   map[ulvs.ServiceKey]bool
	number map[uint32]ulvs.ServiceKey
	claims map[dataplane.Claim]dataplane.Claim // by address, protocol and port
	byMark map[uint32]dataplane.MarkClaim
	left   []dataplane.Claim // Claims.Open
	// anywhere says that a rule is for more than an address, so that none is nobody's.
	anywhere bool

	open bool // the packet may be the director's though no claim is for it
	in   fwmark.Input
}

func (w *claimWorld) pick(list ...string) string { return list[w.rng.IntN(len(list))] }

func (w *claimWorld) build() {
	d, err := New(Options{Plane: dataplanetest.New(), Resolver: dataplanetest.NewResolver(), Connections: 8})
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	w.keys = map[ulvs.ServiceKey]bool{}
	for range w.rng.IntN(8) {
		k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(w.pick("192.0.2.1", "192.0.2.2"))}
		if w.rng.IntN(3) == 0 {
			k.Protocol = ulvs.UDP
		}
		switch w.rng.IntN(4) {
		case 0:
		case 1:
			k = ulvs.ServiceKey{Mark: 10 + w.rng.Uint32N(2)}
		default:
			k.Port = uint16(79 + w.rng.IntN(5))
		}
		s := ulvs.Service{ServiceKey: k, Scheduler: "rr"}
		s.Persistence.Timeout = 1e9
		if d.AddService(s) == nil {
			w.keys[k] = true
		}
	}
	for range w.rng.IntN(6) {
		words := w.pick("-d 192.0.2.1 ", "-d 192.0.2.2 ", "-d 192.0.2.0/24 ", "") + w.pick("", "", "", "-s 10.0.0.1 ", "! -s 10.0.0.2 ", "-i eth1 ") +
			w.pick("", "-p tcp ", "-p tcp --dport 80 ", "-p tcp --dport 79:81 ", "-p udp ", "-p tcp -m multiport --dports 80,82 ",
				"-p tcp --dport 1024:65535 ", "-p tcp --dport 100:3000 ", "-p tcp ! --dport 80 ",
				"-p udp --sport 1000:1001 ", "-p tcp --syn ") +
			w.pick("-j MARK --set-mark 10", "-j MARK --set-mark 10", "-j MARK --set-mark 11", "-j MARK --set-mark 12", "-j ACCEPT", "-j MARK --set-mark 0")
		w.anywhere = w.anywhere || !strings.HasPrefix(words, "-d") || strings.HasPrefix(words, "-d 192.0.2.0/24")
		w.rules = append(w.rules, words)
		if _, err := d.MarkCommand(false, strings.Fields("-t mangle -A PREROUTING "+words)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.set = fwmark.Compile(d.marks4.Rules())
	c := d.path.Commands.Claims()
	links := []fwmark.Link{{Number: 1, Name: "eth0"}, {Number: 2, Name: "eth1"}}
	d.marked.claims([2]*fwmark.Table{d.marks4, d.marks6}, d.path.Commands.ByMark(), links, &c)
	w.byMark = map[uint32]dataplane.MarkClaim{}
	for _, m := range c.ByMark {
		w.byMark[m.Mark] = m
	}
	w.claims = map[dataplane.Claim]dataplane.Claim{}
	for _, list := range [][]dataplane.Claim{c.Services, c.Marked} {
		for _, one := range list {
			w.claims[dataplane.Claim{Addr: one.Addr, Proto: one.Proto, Port: one.Port}] = one
		}
	}
	w.left = c.Open
	for _, s := range d.path.Commands.All() {
		w.number[s.Number()] = s.ServiceKey
	}
}

// claim draws a packet, and finds what a program finds of it.
func (w *claimWorld) claim() *dataplane.Claim {
	port := uint16(78 + w.rng.IntN(7))
	if w.rng.IntN(3) == 0 {
		port = uint16(1 + w.rng.IntN(65535))
	}
	proto := []uint8{packet.ProtoTCP, packet.ProtoTCP, packet.ProtoUDP}[w.rng.IntN(3)]
	to := netip.MustParseAddr(w.pick("192.0.2.1", "192.0.2.2", "192.0.2.3"))
	from := netip.AddrPortFrom(netip.MustParseAddr(w.pick("10.0.0.1", "10.0.0.2")), uint16(1000+w.rng.IntN(3)))
	p := &packet.Packet{Proto: proto, Kind: packet.TCP, Flow: packet.NewFlow(proto, from, netip.AddrPortFrom(to, port))}
	w.in = fwmark.Input{Packet: p, In: w.pick("eth0", "eth1")}
	w.open = w.anywhere || slices.ContainsFunc(w.left, func(c dataplane.Claim) bool {
		return c.Addr == to && c.Proto == proto && (c.Port == port || c.Port == 0)
	})
	for _, port := range []uint16{port, 0} {
		if c, ok := w.claims[dataplane.Claim{Addr: to, Proto: proto, Port: port}]; ok {
			return &c
		}
	}
	return nil
}

// follow does what a program does with a claim that has a list.
func (w *claimWorld) follow(c *dataplane.Claim) *dataplane.Claim {
	var steps []fwmark.Step
	for _, s := range c.List.Steps {
		steps = append(steps, fwmark.Step{Field: fwmark.Field(s.Field), Yes: s.Yes, No: s.No, Mask: s.Mask, Low: s.Low, Span: s.Span, And: s.And, Xor: s.Xor})
	}
	in := fwmark.Inputs{fwmark.FieldPort: uint32(w.in.Packet.Flow.ClientPort()), fwmark.FieldInterface: 1}
	in[0] = binary.BigEndian.Uint32(w.in.Packet.Source().AsSlice())
	if w.in.In == "eth1" {
		in[fwmark.FieldInterface] = 2
	}
	mark, decided := fwmark.Follow(steps, in)
	m, has := w.byMark[mark]
	switch {
	case !decided:
		return &dataplane.Claim{Service: dataplane.Undecided}
	case mark != 0 && has:
		return &dataplane.Claim{Service: m.Service, Serial: m.Serial}
	}
	return c
}

// service is the packet's, or none.
func (w *claimWorld) service() ulvs.ServiceKey {
	f := &w.in.Packet.Flow
	if k := (ulvs.ServiceKey{Mark: w.set.Mark(&w.in)}); w.keys[k] {
		return k
	}
	for _, port := range []uint16{f.VirtualPort(), 0} {
		k := ulvs.ServiceKey{Protocol: ulvs.Protocol(w.in.Packet.Proto), Addr: w.in.Packet.Dest(), Port: port}
		if w.keys[k] {
			return k
		}
	}
	return ulvs.ServiceKey{}
}

func (w *claimWorld) fail(got string, want ulvs.ServiceKey) {
	w.t.Helper()
	w.t.Fatalf("%v from %s leads to %s, want %v\n%v\n%s", w.in.Packet.Flow, w.in.In, got, want, w.keys, strings.Join(w.rules, "\n"))
}
