package planes

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/bench/frames"
	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/tcx"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
)

// The addresses on the wire. The real servers are link addresses that end in room.
var (
	vip      = netip.MustParseAddrPort("192.168.10.101:80")
	router   = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	servers  = [3]netip.Addr{netip.MustParseAddr("192.168.10.200"), netip.MustParseAddr("192.168.10.201"), netip.MustParseAddr("192.168.10.202")}
	serverOf = func(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(1 + i), room} }
)

// room is in which a sink counts what real servers get.
const room = 2

// bed is a generator's and a director's namespace, with a pair of interfaces
// between them, and the real servers' permanent neighbour entries.
type bed struct {
	testing.TB
	node, at wire.End
}

func newBed(b testing.TB) *bed {
	b.Helper()
	return newBedOf(b, 0)
}

// newBedOf has interfaces of so many queues (wire.Net).
func newBedOf(b testing.TB, queues int) *bed {
	b.Helper()
	s := &bed{TB: b}
	n, err := wire.NewNet()
	if errors.Is(err, wire.ErrNotPermitted) {
		b.Skip(err)
	}
	s.must(err)
	n.Queues = queues
	b.Cleanup(func() { _ = n.Close() })
	s.node, s.at, err = n.Loop()
	s.must(err)
	nl := s.at.Space.Netlink()
	link, err := nl.LinkByName(s.at.Name)
	s.must(err)
	s.must(nl.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 10, 100), Mask: net.CIDRMask(24, 32)}}))
	for i, a := range servers {
		s.must(nl.NeighSet(&netlink.Neigh{LinkIndex: s.at.Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: serverOf(i)}))
	}
	return s
}

func (s *bed) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *bed) sink(o wire.SinkOptions) *wire.Sink {
	s.Helper()
	sink, err := wire.NewSink(s.node, o)
	s.must(err)
	s.Cleanup(sink.Close)
	return sink
}

// generate makes a generator of packets to the service. Clients and ports are those
// of frames.fill.
func (s *bed) generate(change func(*wire.Traffic)) *wire.Generator {
	s.Helper()
	t := wire.Traffic{
		Dst: [6]byte(s.at.MAC), Src: [6]byte(router), Client: netip.MustParseAddrPort("10.0.0.0:1024"), Service: vip, PortBits: 2,
		CPU: min(1, runtime.NumCPU()-1),
	}
	change(&t)
	g, err := wire.NewGenerator(s.node, t)
	s.must(err)
	s.Cleanup(g.Close)
	return g
}

// ever is traffic of flows of which each comes once.
func ever(t *wire.Traffic) { t.Flows = 1 << 28 }

// established is traffic of some connections.
func established(flows uint32) func(*wire.Traffic) {
	return func(t *wire.Traffic) { t.Flows, t.Random, t.Seed = flows, true, 1 }
}

// station is a bed with a director at work.
type station struct {
	*bed
	director *director.Director
	plane    dataplane.Plane
}

// The planes, as in the options of "ulvs run".
const (
	planeXDP      = "xdp"          // --plane xdp: AF_XDP sockets for what Go decides
	planeSockets  = "af_xdp"       // the same, where Go opens all connections: a quiescent server is for tunnelling
	planeBehind   = "xdp+afpacket" // --plane xdp --af-xdp off, where Go opens all too
	planeTCX      = "tcx"          // --plane tcx
	planeAFPacket = "afpacket"     // --plane afpacket
)

// newStation starts a director, made as "ulvs run" makes it.
func newStation(b testing.TB, plane string, connections int, persistence time.Duration) *station {
	b.Helper()
	return newStationOn(newBed(b), plane, connections, persistence)
}

// newStationOn starts one in a bed.
func newStationOn(on *bed, plane string, connections int, persistence time.Duration) *station {
	b := on.TB
	b.Helper()
	s := &station{bed: on}
	if plane == planeAFPacket || plane == planeTCX { // or nothing would be received
		s.must(s.at.GRO())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s.must(s.at.Space.Do(func() (err error) {
		names := []string{s.at.Name}
		var hook *tcx.Hook
		var tap func(ifindex int) (int, error)
		if plane == planeTCX {
			if hook, err = tcx.New(xdp.HostMark); err != nil {
				return err
			}
			tap = hook.Private
		}
		slow, err := afpacket.New(afpacket.Options{Interfaces: names, Tap: tap, Logger: log})
		if err != nil {
			return err
		}
		s.plane = slow
		if plane != planeAFPacket {
			o := xdp.Options{Interfaces: names, Slow: slow, Native: hook == nil} // as on a card
			if hook != nil {
				o.Ingress, o.Everywhere = hook, true
			}
			if plane == planeBehind {
				o.Sockets = xdp.SocketsOff
			}
			if s.plane, err = xdp.New(o); err != nil {
				return err
			}
		}
		s.director, err = director.New(director.Options{Plane: s.plane, Connections: connections, Templates: connections, Logger: log})
		return err
	}))
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: vip.Addr(), Port: vip.Port()}
	s.must(s.director.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: persistence}}))
	for _, a := range servers {
		s.must(s.director.AddDestination(k, ulvs.Destination{Addr: a, Port: vip.Port(), Weight: 1}))
	}
	if plane == planeSockets || plane == planeBehind {
		s.must(s.director.AddDestination(k, ulvs.Destination{Addr: netip.MustParseAddr("192.168.10.250"), Port: vip.Port(),
			Forward: ulvs.Tunnel}))
	}
	ctx, end := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.director.Run(ctx) })
	b.Cleanup(func() {
		end()
		if err := g.Wait(); err != nil {
			b.Error(err)
		}
		s.director.Close()
	})
	return s
}

// establish makes connections that have seen a SYN and an ACK.
func (s *station) establish(flows uint32) {
	for _, flags := range []byte{frames.SYN, frames.ACK} {
		f, err := frames.New(vip, flags)
		s.must(err)
		for n := uint32(0); n < flows; n += frames.Size {
			for i := range f.List {
				c := (n + uint32(i)) % flows
				f.Client(i, 10<<24|c>>2, uint16(1024+c&3)) // as the generator's
				f.List[i].In = s.at.Index
			}
			s.director.Handle(monotonic(), f.List[:min(frames.Size, flows-n)])
		}
	}
	if got := s.counter("connections"); got != uint64(flows) {
		s.Fatalf("%d connections of %d were made", got, flows)
	}
}

func (s *station) counter(name string) uint64 {
	s.Helper()
	all, err := s.director.Counters()
	s.must(err)
	return all[name]
}

func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}
