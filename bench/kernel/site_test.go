package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/internal/lab"
)

// site is the generator's interface and the director's, which has addresses and
// knows the real servers.
type site struct {
	*testing.T
	node, director wire.End
	sink           *wire.Sink // or nil
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t}
	n, err := wire.NewNet()
	s.must(err)
	t.Cleanup(func() { s.must(n.Close()) })
	s.node, s.director, err = n.Loop()
	s.must(err)
	h := s.director.Space
	for _, c := range [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.dir0.rp_filter", "0"},
		// Packets leave as they came, which is not to be told to the clients.
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.dir0.send_redirects", "0"},
	} {
		s.must(h.Sysctl(c[0], c[1]))
	}
	link, err := h.Netlink().LinkByName(s.director.Name)
	s.must(err)
	s.must(h.Netlink().AddrAdd(link, &netlink.Addr{IPNet: ipNet(own)}))
	for i, a := range servers {
		s.must(h.Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: s.director.Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: lab.MAC(uint32(i + 1)),
		}))
	}
	// The clients' network: answers would go there, if there were any.
	s.must(h.Netlink().RouteAdd(&netlink.Route{LinkIndex: s.director.Index, Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8")), Scope: netlink.SCOPE_LINK}))
	return s
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// own puts the virtual address on the director.
func (s *site) own() {
	s.Helper()
	link, err := s.director.Space.Netlink().LinkByName("lo")
	s.must(err)
	s.must(s.director.Space.Netlink().AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(virtual.Addr(), 32))}))
}

// attach puts a program of a single verdict in front of the director.
func (s *site) attach(verdict int32) {
	s.Helper()
	s.load(asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()})
}

// load puts a program in front of the director.
func (s *site) load(list asm.Instructions) {
	s.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: list})
	s.must(err)
	s.Cleanup(func() { p.Close() })
	l, err := s.director.Attach(p)
	s.must(err)
	s.Cleanup(func() { l.Close() })
}

// XDP's verdicts.
const (
	actionPass = 2
	actionTX   = 3
)

// Packets come in pieces that the rings of all who forward in a time of their own
// hold. What a generator's call takes by itself is in the wire's rounds too. Once in
// a while the kernel leaves a veth interface to ksoftirqd, and its ring of 256 frames
// overflows: the round is then begun again.
const (
	piece    = 1024
	surely   = 256
	rounds   = 5
	attempts = 3 * rounds
)

func (s *site) generator(t wire.Traffic) *wire.Generator {
	s.Helper()
	t.Dst, t.Src = [6]byte(s.director.MAC), [6]byte(s.node.MAC)
	g, err := wire.NewGenerator(s.node, t)
	s.must(err)
	return g
}

// send sends n packets in pieces, and waits until the sink has seen them all. The
// error says that it has not.
func (s *site) send(g *wire.Generator, n, piece uint64) error {
	s.Helper()
	var total uint64
	if s.sink != nil {
		total = s.sink.Total()
	}
	for n > 0 {
		now := min(n, piece)
		_, err := g.Run(now)
		s.must(err)
		n -= now
		if s.sink == nil {
			continue
		}
		total += now
		if err := s.sink.Await(total, 5*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// open sends the packets that open a load's connections.
func (s *site) open(l load) {
	s.Helper()
	for _, t := range l.opening() {
		g := s.generator(t)
		s.must(s.send(g, uint64(t.Flows), surely))
		g.Close()
	}
}

// measure prints a sample for each round of a load.
func (s *site) measure(l load, contender string) {
	s.Helper()
	g := s.generator(l.traffic())
	defer g.Close()
	packets := uint64(64 * piece)
	if l.flows == 0 {
		packets /= 2
	}
	s.rounds(l.name, contender, packets, func(n uint64) error { return s.send(g, n, piece) })
}

// rounds prints a sample for each of so many rounds in which send sends packets. Its
// error says that some were lost.
func (s *site) rounds(load, contender string, packets uint64, send func(n uint64) error) {
	s.Helper()
	done := -1 // the first round is to warm up
	for range attempts {
		runtime.GC()
		s.must(settle())
		before, err := work()
		s.must(err)
		lost := send(packets)
		after, err := work()
		s.must(err)
		if lost != nil {
			s.Logf("a round does not count: %v", lost)
			continue
		}
		if done++; done > 0 {
			fmt.Println(sample{load, contender, float64(after-before) / float64(packets)})
		}
		if done == rounds {
			return
		}
	}
	s.Fatalf("of %d rounds, %d lost no packet", attempts, done+1)
}
