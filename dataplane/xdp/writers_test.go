package xdp

import (
	"errors"
	"flag"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/packet"
)

var writersFor = flag.Duration("writers", 1300*time.Millisecond, "TestWriters: how long each of its three ways takes")

// TestWriters has Go open and end connections in a small table, whose slots are
// used again all the time, while on another CPU the program forwards packets from
// it without a pause. Which real server a connection has follows from its flow, so
// that each packet that comes out says whether it went to the right one.
func TestWriters(t *testing.T) {
	for _, way := range []struct {
		name        string
		six, looked bool
	}{{"IPv4", false, false}, {"IPv6", true, false}, {"looked up", false, true}} {
		t.Run(way.name, func(t *testing.T) {
			w := newWriters(t, way.six, way.looked)
			w.grace.swaps = way.looked // as where membarrier refuses
			w.fill()
			w.freeze()
			w.interrupt()
			w.contend(*writersFor)
			w.settle()
		})
	}
}

// writersMax is how many connections the table has.
const writersMax = 2000

// writers is a plane with a program in front of a veth interface, a generator and a
// sink on the other end, and the connection table between them.
type writers struct {
	*Plane
	t       *testing.T
	traffic wire.Traffic
	node    wire.End // where the generator and the sink are
	sink    *wire.Sink
	gen     *wire.Generator
	wrong   *array // the frame that went to the wrong server

	mu    sync.Mutex // the director's forwarding lock
	conns *conn.Table
	count []int // connections by home

	all, stay, come, first, swap []*visitor

	// Slots that are not to be used yet: those that are next to await a grace period,
	// and how many await one.
	pending []uint32
	waiting int
	cold    []coldKey
	round   int // of the swappers

	inserted, removed, full, graces, slots int
}

func (w *writers) must(err error) {
	w.t.Helper()
	if errors.Is(err, ErrNotPermitted) || errors.Is(err, wire.ErrNotPermitted) {
		w.t.Skip(err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func newWriters(t *testing.T, six, looked bool) *writers {
	if runtime.NumCPU() < 2 {
		t.Skip("the generator and the writer need a CPU each")
	}
	w := &writers{t: t}
	var err error
	w.Plane, err = New(Options{Interfaces: []string{"lo"}, Slow: dataplanetest.New(), Servers: lastServer + 2})
	w.must(err)
	gone(t, w.Plane)
	w.lookupHelper = looked
	parts := []accel.Part{{Name: "conns", Size: conn.MemorySize(writersMax)}}
	_, err = w.Memory(parts)
	w.must(err)
	w.conns, err = conn.New(conn.Options{Max: writersMax, Hz: hz, Memory: parts[0].Block, Quarantine: true, Expired: func(conn.ID) {}})
	w.must(err)

	w.traffic = wire.Traffic{
		Dst: own, Src: router, UDP: true, Payload: 24, Sequence: true, PortBits: 4, Flows: flowSpace,
		Client: netip.MustParseAddrPort("10.1.0.0:1000"), Service: netip.MustParseAddrPort("192.168.10.101:80"),
		Random: true, Seed: rand.Uint64(), Count: true,
	}
	if six {
		w.traffic.Client, w.traffic.Service = netip.MustParseAddrPort("[fd01::a01:0]:1000"), service(true)
	}
	w.choose()

	net, err := wire.NewNet()
	w.must(err)
	t.Cleanup(func() { _ = net.Close() })
	node, director, err := net.Loop()
	w.must(err)
	w.node = node
	w.sink, err = wire.NewSink(node, wire.SinkOptions{Rooms: flowSpace + 1, Room: w.judge()})
	w.must(err)
	t.Cleanup(w.sink.Close)
	w.egress.out = map[int]bool{director.Index: true}
	for id := range uint32(lastServer) {
		w.SetServer(id+1, accel.Server{Reachable: true, Dst: macOf(id + 1), Src: own, Ifindex: director.Index, MTU: 1500})
	}
	ticks, err := learnTicks(hz)
	w.must(err)
	seed, homes := w.conns.Seed()
	source := w.source(accel.Acceleration{TableShape: accel.TableShape{Seed: seed, Homes: homes, Slots: uint32(w.conns.Slots())}, Hz: hz}, ticks, director.Index, []dataplane.MAC{own}, nil)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: dropping(source.Assemble())})
	w.must(err)
	t.Cleanup(func() { _ = prog.Close() })
	l, err := director.Attach(prog)
	w.must(err)
	t.Cleanup(func() { _ = l.Close() })
	w.gen = w.generator(w.shares(), true)
	return w
}

// dropping is a program that drops what it would pass: the host's stack takes longer
// for a packet than all else does.
func dropping(list asm.Instructions) asm.Instructions {
	for i := range list {
		if list[i].Symbol() == program.PassLabel {
			list[i].Constant = 1 // XDP_DROP
		}
	}
	return list
}

func (w *writers) generator(pick []uint32, random bool) *wire.Generator {
	traffic := w.traffic
	traffic.Pick, traffic.Random = pick, random
	g, err := wire.NewGenerator(w.node, traffic)
	w.must(err)
	w.t.Cleanup(g.Close)
	return g
}

// insert opens a flow's connection, as its first packet does. The table may be full:
// then nothing has changed.
func (w *writers) insert(v *visitor) bool { return w.insertAs(v, &v.key) }

func (w *writers) insertAs(v *visitor, key *packet.Flow) bool {
	n := w.conns.Len()
	id, err := w.conns.Insert(key, v.hash, serverOf(v.flow), 0, 0, 0)
	if err != nil {
		_, found := w.conns.Lookup(&v.key, v.hash)
		if !errors.Is(err, conn.ErrFull) || found || w.conns.Len() != n {
			w.t.Errorf("flow %d: %v; it is found: %v, and there were %d connections, now %d", v.flow, err, found, n, w.conns.Len())
		}
		w.full++
		return false
	}
	w.conns.UDP(id, 0)
	v.id, v.live = id, true
	w.count[v.home]++
	w.inserted++
	return true
}

func (w *writers) remove(v *visitor) {
	w.conns.End(v.id)
	v.live = false
	w.count[v.home]--
	w.removed++
}

// fill opens what stays.
func (w *writers) fill() {
	for _, c := range w.stay {
		if !w.insert(c) {
			w.t.Fatalf("no room for flow %d, which is to stay", c.flow)
		}
	}
}

// contend has the generator send and the writer write, for so long.
func (w *writers) contend(d time.Duration) {
	const perRun = 1 << 18
	var over atomic.Bool
	var all sync.WaitGroup
	var sending error
	all.Go(func() {
		for !over.Load() && sending == nil {
			_, sending = w.gen.Run(perRun)
			over.CompareAndSwap(false, w.audit())
		}
	})
	all.Go(func() { w.reclaim(&over) })
	start := time.Now()
	defer func() {
		over.Store(true)
		all.Wait()
		w.must(sending)
		took := time.Since(start)
		w.t.Logf("%v: %d packets, of which %d were forwarded; %d connections were opened and %d ended, %d found no room; %d grace periods gave %d slots back",
			took.Round(time.Millisecond), w.gen.Sent(), w.sink.Total(), w.inserted, w.removed, w.full, w.graces, w.slots)
	}()
	defer w.pin()()
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for time.Since(start) < d && !over.Load() {
		for range 64 {
			w.mu.Lock()
			for range 16 {
				w.change(random)
			}
			w.pending = append(w.pending, w.conns.Retired()...)
			w.mu.Unlock()
		}
		w.check(start)
	}
}

// mostPending is how many slots wait to be free at most, so that some connections are
// alive.
const mostPending = 250

// change opens or ends a connection.
func (w *writers) change(random *rand.Rand) {
	list := w.come
	if random.Uint32()&1 == 0 {
		list = w.first[crowdStay:]
	}
	v := list[random.IntN(len(list))]
	switch {
	case v.live && len(w.pending)+w.waiting < mostPending:
		w.remove(v)
	case !v.live && w.count[v.home] < crowdLive:
		w.insert(v)
	}
}

// reclaim gives slots back as the director does (Director.freeRetired), and has the
// swappers take theirs at once.
func (w *writers) reclaim(over *atomic.Bool) {
	defer w.pin()()
	for !over.Load() {
		w.mu.Lock()
		list := w.pending
		w.pending, w.waiting = nil, len(list)
		w.mu.Unlock()
		if len(list) == 0 {
			time.Sleep(100 * time.Microsecond) // nothing has happened, or there is no quarantine
		} else if err := w.Grace(); err != nil {
			w.t.Error(err)
			return
		}
		w.mu.Lock()
		w.conns.Free(list)
		w.waiting = 0
		w.graces++
		w.slots += len(list)
		w.swapAll()
		w.mu.Unlock()
	}
}

// interrupt has the generator's CPU interrupted every 200 us, by a timer of perf's that
// nobody reads: now and then in the middle of what the program must not be caught at.
// Without perf there are fewer interruptions.
func (w *writers) interrupt() {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: unix.PERF_ATTR_SIZE_VER0, Sample: 200_000,
	}, -1, w.traffic.CPU, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		w.t.Logf("perf: %v", err)
		return
	}
	w.t.Cleanup(func() { _ = unix.Close(fd) })
}

// pin keeps the calling goroutine on the writer's CPU, until back is called.
func (w *writers) pin() (back func()) {
	runtime.LockOSThread()
	var was, is unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		w.t.Error(err)
	}
	is.Set(1)
	if err := unix.SchedSetaffinity(0, &is); err != nil {
		w.t.Error(err)
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &was)
		runtime.UnlockOSThread()
	}
}

// check fails if a packet went to the wrong server.
func (w *writers) check(start time.Time) {
	if n := w.sink.Count(flowSpace); n > 0 {
		w.t.Fatalf("after %v and %d packets, %d went to the server of another connection: % x", time.Since(start), w.gen.Sent(), n, w.wrong.memory[:64])
	}
}

// served is how many frames the program has counted.
func (w *writers) served() (n uint64) {
	for id := range uint32(lastServer + 1) {
		packets := w.Served(id).Packets
		n += packets
	}
	return n
}

// audit compares what was sent with what was seen, while nothing is sent: of each flow
// that stays all, by the sink and by the connection's own count; and of each server as
// much as the program has counted for it.
func (w *writers) audit() (failed bool) {
	if err := w.sink.Await(w.served(), time.Minute); err != nil {
		w.t.Error(err)
		return true
	}
	if w.sink.Count(flowSpace) > 0 {
		return false // check says so
	}
	lost := uint64(0)
	var of *visitor
	for _, v := range w.stay {
		sent, seen, counted := w.gen.SentOf(v.flow), w.sink.Count(int(v.flow)), w.conns.Packets(v.id)-1
		if sent != seen {
			lost += sent - seen
			of = v
		}
		if uint64(counted) != seen {
			w.t.Errorf("flow %d: its connection has counted %d packets, and %d were seen", v.flow, counted, seen)
			failed = true
		}
	}
	if lost != 0 {
		w.t.Errorf("of connections that were there all the time (such as flow %d's), %d packets of %d were not forwarded", of.flow, lost, w.gen.Sent())
		failed = true
	}
	var seen [lastServer + 1]uint64
	for flow := range uint32(flowSpace) {
		seen[serverOf(flow)] += w.sink.Count(int(flow))
	}
	for id, n := range seen {
		if served := w.Served(uint32(id)).Packets; served != n {
			w.t.Errorf("server %d: the program has counted %d packets, and %d were seen", id, served, n)
			failed = true
		}
	}
	return failed
}

// settle sends two packets of each flow after the last change: those that have a
// connection are forwarded, and no others.
func (w *writers) settle() {
	before := map[uint32]uint64{}
	var list []uint32
	for _, c := range w.all {
		before[c.flow] = w.sink.Count(int(c.flow))
		list = append(list, c.flow)
	}
	_, err := w.generator(list, false).Run(2 * uint64(len(list)))
	w.must(err)
	w.must(w.sink.Await(w.served(), time.Minute))
	for _, c := range w.all {
		want := uint64(0)
		if c.live {
			want = 2
		}
		if got := w.sink.Count(int(c.flow)) - before[c.flow]; got != want {
			w.t.Errorf("flow %d: of two packets %d are forwarded; it has a connection: %v", c.flow, got, c.live)
		}
	}
}
