package xdp

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/packet"
)

var statesFor = flag.Duration("states", 1500*time.Millisecond, "TestStates: how long it takes")

// statesBatch is how many connections are in a state at the same time.
const statesBatch = 64

// contest is a director and a program that change states of the same connections at the same
// time. Once they are ESTABLISHED, packets lead to the same state in any order: that is how
// what comes out is known.
type contest struct {
	*pair
	frames   [statesBatch][]byte
	services []uint16 // ports
	cpus     []int
	serial   int
	rounds   int
	changed  uint64
	deaths   int
	doubles  bool // of which one state or another may be right
	lossy    bool // packets may be dropped: real servers come and go, or the table is full
}

// TestStates has the program and Go change states of the same connections at the same time,
// while Go accepts what the program opens, ticks, lists, and is replaced by another.
func TestStates(t *testing.T) {
	c := newContest(t, 80, 81, 82, 84, 85)
	for began := time.Now(); time.Since(began) < *statesFor && !t.Failed(); c.rounds++ {
		c.round()
		if c.rounds%32 == 31 {
			c.end()
		}
	}
	c.end()
	t.Logf("%d rounds of %d connections; the program changed %d states that Go accepted; %d directors were replaced",
		c.rounds, statesBatch, c.changed, c.deaths)
	if c.rounds > 100 && c.changed < uint64(c.rounds) {
		t.Error("that was not much")
	}
}

// newContest has services at these ports: 81 is persistent, of 82 Go opens the connections, at
// 83 it is they that count, and 84 and 85, which is persistent, are SCTP's.
func newContest(t *testing.T, ports ...uint16) *contest {
	c := &contest{cpus: bothCPUs(t), pair: newPair(t, 1), services: ports}
	c.serve()
	return c
}

// contestService is the service that newContest has at a port.
func contestService(port uint16) ulvs.Service {
	s := ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: port}, Scheduler: "rr"}
	switch port {
	case 81, 85:
		s.Persistence.Timeout = 5 * time.Minute
	case 82:
		s.Scheduler = "lblc"
	case 83:
		s.Scheduler = "wlc"
	}
	if port >= 84 {
		s.Protocol = ulvs.SCTP
	}
	return s
}

// serve has the services of newContest.
func (c *contest) serve() {
	for _, port := range c.services {
		s := contestService(port)
		c.must(c.fast.AddService(s))
		for i := range pairServers {
			c.must(c.fast.AddDestination(s.ServiceKey, ulvs.Destination{Addr: pairServer(false, i), Port: port, Weight: 1}))
		}
	}
}

// flags of a packet, and what it leads to from ESTABLISHED.
var statesLast = []struct {
	program, director []uint8
	state             string
}{
	{[]uint8{packet.ACK}, []uint8{packet.ACK}, "ESTABLISHED"},
	{[]uint8{packet.FIN | packet.ACK, packet.ACK}, []uint8{packet.ACK, packet.ACK}, "FIN_WAIT"},
	{[]uint8{packet.ACK, packet.ACK}, []uint8{packet.FIN | packet.ACK}, "FIN_WAIT"},
	{[]uint8{packet.FIN | packet.ACK}, []uint8{packet.RST}, "CLOSE"},
	{[]uint8{packet.RST}, []uint8{packet.FIN | packet.ACK}, "CLOSE"},
	{[]uint8{packet.FIN | packet.ACK}, []uint8{packet.FIN | packet.ACK}, "FIN_WAIT"},
	{nil, nil, "CLOSE"}, // which it has come to before
	{nil, nil, "CLOSE"},
}

// round opens connections, and has both lead them to a state.
func (c *contest) round() {
	for i := range c.frames {
		c.frames[i] = c.syn(c.serial)
		c.serial++
	}
	way := func(i int) int { return i % len(statesLast) }
	var at atomic.Int32 // how many connections the program has come to
	wait := func(i int, meanwhile func()) {
		for at.Load() <= int32(i) {
			meanwhile()
		}
	}
	before := c.statesNow()
	c.together(
		func() {
			defer at.Store(statesBatch)
			for i := range c.frames {
				c.run(c.frames[i], packet.SYN)
				at.Store(int32(i + 1))
				c.run(c.frames[i], packet.ACK)
				if statesLast[way(i)].program == nil {
					c.run(c.frames[i], packet.FIN|packet.ACK)
					c.run(c.frames[i], packet.RST)
				}
			}
		},
		func() { // accepts what the program does, and has packets of the same connections
			for i, frame := range c.frames {
				wait(i, func() { c.fast.Tick(c.still.now) })
				switch {
				case c.rounds%2 == 0: // accepts alone
				case statesLast[way(i)].program == nil || i%2 == 0:
					c.handle(frame, packet.ACK)
				default:
					c.handle(frame, packet.SYN)
				}
			}
		},
	)
	at.Store(0)
	c.together(
		func() {
			defer at.Store(statesBatch)
			for i, frame := range c.frames {
				at.Store(int32(i + 1))
				for _, flags := range statesLast[way(i)].program {
					c.run(frame, flags)
				}
			}
		},
		func() {
			for i, frame := range c.frames {
				wait(i, func() {})
				for range c.rng.IntN(2000) {
				}
				for _, flags := range statesLast[way(i)].director {
					c.handle(frame, flags)
				}
			}
		},
	)
	if c.rounds%8 == 7 { // what the program tells now the next director reads
		for _, frame := range c.frames[:statesBatch/2] {
			c.run(frame, packet.RST)
		}
		c.start()
		c.deaths++
		before = c.statesNow()
	}
	if c.rounds%4 == 2 {
		c.endMeanwhile()
		return
	}
	c.audit(func(i int) string {
		if c.rounds%8 == 7 && i < statesBatch/2 {
			return "CLOSE"
		}
		return statesLast[way(i)].state
	})
	c.changed += c.statesNow() - before
}

// endMeanwhile has connections end that the program changes at the same time: their clients have
// not answered for a minute.
func (c *contest) endMeanwhile() {
	for i := range c.frames {
		c.frames[i] = c.syn(c.serial)
		c.serial++
		c.run(c.frames[i], packet.SYN)
	}
	var at atomic.Int32
	c.together(
		func() {
			defer at.Store(statesBatch)
			for i, frame := range c.frames {
				at.Store(int32(i))
				c.alone(frame, packet.FIN|packet.ACK|packet.PSH)
			}
		},
		func() {
			for upTo := int32(c.rng.IntN(statesBatch)); at.Load() < upTo; {
			}
			c.fast.Tick(c.still.now + 61*time.Second)
		},
	)
	c.still.now += 61 * time.Second
	c.still.moveClock()
	c.frames = [statesBatch][]byte{}
	c.audit(nil)
}

// together carries out parts at the same time, in turns on the one CPU and the other.
func (c *contest) together(parts ...func()) {
	var all sync.WaitGroup
	for i, f := range parts {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var was, is unix.CPUSet
			c.must(unix.SchedGetaffinity(0, &was))
			is.Set(c.cpus[i%2])
			c.must(unix.SchedSetaffinity(0, &is))
			f()
			c.must(unix.SchedSetaffinity(0, &was))
		})
	}
	all.Wait()
}

// bothCPUs are those on which a test may run that needs two.
func bothCPUs(t *testing.T) []int {
	cpus := allowed(t)
	if len(cpus) < 2 {
		t.Skip("the program and Go need a CPU each")
	}
	return cpus
}

// allowed are the CPUs on which this process may run.
func allowed(t *testing.T) (list []int) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			list = append(list, cpu)
		}
	}
	return list
}

// alone has the program look at a packet, and nobody else.
func (c *contest) alone(frame []byte, flags uint8) (action uint32) {
	frame = withFlags(frame, flags)
	action, _, err := runByHand(c.still.prog, frame)
	c.must(err)
	return action
}

// run has the program look at a packet, and Go if that leaves it to Go.
func (c *contest) run(frame []byte, flags uint8) {
	if c.alone(frame, flags) != program.ActionTX {
		c.decide(frame, flags, true)
	}
}

// handle has Go look at a packet that no program has seen, and decide at one that a program has handed over.
func (c *contest) handle(frame []byte, flags uint8) { c.decide(frame, flags, false) }

func (c *contest) decide(frame []byte, flags uint8, handed bool) {
	list := []dataplane.Frame{{Data: withFlags(frame, flags), In: 1, Room: make([]byte, 0, 2048), Handed: handed && counted(frame)}}
	c.fast.Handle(c.still.now, list)
	dataplane.Carried(c.fast, list)
	if list[0].Verdict != dataplane.Transmit && !c.lossy {
		c.t.Errorf("a packet of a connection was not forwarded: verdict %d", list[0].Verdict)
	}
}

// audit compares what is listed with what was sent, and with what is counted.
func (c *contest) audit(want func(i int) (state string)) {
	c.t.Helper()
	type client struct{ at, to netip.AddrPort }
	list, err := c.fast.Services()
	c.must(err)
	counters, err := c.fast.Counters()
	c.must(err)
	states := map[client]string{}
	type counts struct{ active, inactive uint32 }
	recount := map[netip.AddrPort]counts{}
	halfOpen := uint64(0)
	assured := map[client]bool{}
	c.must(c.fast.Conns(func(s ulvs.ConnStatus) bool {
		if s.Template {
			assured[client{s.Client, s.Virtual}] = s.State == "ASSURED"
			return true
		}
		states[client{s.Client, s.Virtual}] = s.State
		if strings.Contains("SYN_RECV TIME_WAIT INIT1 INIT", s.State) { // TIME_WAIT comes here of SYN_RECV alone
			halfOpen++
		}
		n := recount[s.Dest]
		if strings.Contains("ESTABLISHED SYN_RECV", s.State) {
			n.active++
		} else {
			n.inactive++
		}
		recount[s.Dest] = n
		return true
	}))
	for i, frame := range c.frames {
		if frame == nil {
			break
		}
		at := client{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte(frame[26:30])), binary.BigEndian.Uint16(frame[34:])),
			netip.AddrPortFrom(netip.AddrFrom4([4]byte(frame[30:34])), binary.BigEndian.Uint16(frame[36:])),
		}
		state := want(i)
		if frame[statesProto] == program.ProtoSCTP {
			state = map[string]string{"FIN_WAIT": "S-RECEIVED", "CLOSE": "CLOSED"}[state]
			if state == "" {
				state = "ESTABLISHED"
			}
		}
		if states[at] != state && (!c.doubles || states[at] == "") {
			c.t.Errorf("round %d: the connection of %v to %v is in state %q, not %s", c.rounds, at.at, at.to, states[at], state)
		}
		template := client{netip.AddrPortFrom(at.at.Addr(), 0), at.to}
		if (at.to.Port() == 81 || at.to.Port() == 85) && !assured[template] && !c.doubles {
			c.t.Errorf("round %d: the template of %v is not ASSURED", c.rounds, at.at.Addr())
		}
	}
	if n := counters["half_open"]; n != halfOpen && !c.doubles {
		c.t.Errorf("round %d: %d connections were never established; counted are %d that are half-open", c.rounds, halfOpen, n)
	}
	for _, s := range list {
		for _, d := range s.Destinations {
			at := netip.AddrPortFrom(d.Addr, d.Port)
			if n := recount[at]; n.active != d.ActiveConns || n.inactive != d.InactConns {
				c.t.Errorf("round %d: %v has %d active and %d inactive connections; counted are %d and %d", c.rounds, at,
					n.active, n.inactive, d.ActiveConns, d.InactConns)
			}
		}
	}
}

// end has the time of all connections be over. Nothing is left then.
func (c *contest) end() {
	c.t.Helper()
	for range 4 {
		c.still.now += 16 * time.Minute
		c.fast.Tick(c.still.now)
	}
	c.still.moveClock()
	list, err := c.fast.Services()
	c.must(err)
	for _, s := range list {
		for _, d := range s.Destinations {
			if d.ActiveConns != 0 || d.InactConns != 0 || d.PersistConns != 0 {
				c.t.Errorf("round %d: %v has %d active and %d inactive connections and %d templates after the end of all", c.rounds,
					netip.AddrPortFrom(d.Addr, d.Port), d.ActiveConns, d.InactConns, d.PersistConns)
			}
		}
	}
	counters, err := c.fast.Counters()
	c.must(err)
	if n := fmt.Sprint(counters["connections"], counters["templates"], counters["half_open"]); n != "0 0 0" {
		c.t.Errorf("round %d: connections, templates and half-open ones after the end of all: %s", c.rounds, n)
	}
}
