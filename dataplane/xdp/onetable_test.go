package xdp

import (
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/packet"
)

// tableMax is how many connections TestOneTable's table has: few, so that chains are long and slots are
// used again soon.
const tableMax = 1024

// oneTable is a contest in which also configurations change, directors are killed and floods come.
type oneTable struct {
	*contest
	most, least uint64 // connections at the ends of floods
	commands    int
	opened      int // connections that programs opened while directors were replaced
	established int // those that were so afterwards
}

// TestOneTable has programs on two CPUs and Go write one table: they change states of the same connections,
// open the same ones, and go on while configurations and timeouts change, while directors are
// killed and replaced, and in floods. In between, all that is counted is counted again, and each
// slot is to be in one place.
func TestOneTable(t *testing.T) {
	c := &oneTable{contest: &contest{cpus: bothCPUs(t), pair: newSide(t, 1, 255)}}
	c.services = []uint16{80, 81, 82, 83, 84, 85} // newContest
	c.connections, c.logger = tableMax, slog.New(slog.DiscardHandler)
	c.start()
	c.serve()
	defer c.watch()()
	turns := []func(){
		c.round, c.ends, c.round, c.double, c.ends, c.round, c.told, c.left, c.ends, c.listed, c.configure, c.round,
		c.kill, c.flood,
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // one that is woken finds a processor of Go's
	turn := 0
	for began := time.Now(); time.Since(began) < *statesFor && !t.Failed(); turn++ {
		turns[turn%len(turns)]()
		c.rounds++
		c.empty()
	}
	t.Logf("%d turns, %d commands; floods left %d to %d connections of %d; programs changed %d states that Go accepted, of round alone; "+
		"%d directors were replaced, and of %d connections opened meanwhile %d were established then",
		turn, c.commands, c.least, c.most, tableMax, c.changed, c.deaths, c.opened, c.established)
}

// empty looks where all slots are, has all connections end, and looks again.
func (c *oneTable) empty() {
	c.t.Helper()
	c.fast.Tick(c.still.now)
	c.places()
	c.end()
	c.fast.Tick(c.still.now)
	c.places()
}

// fresh has other connections.
func (c *oneTable) fresh() {
	for i := range c.frames {
		c.frames[i] = c.syn(c.serial)
		c.serial++
	}
}

func (c *oneTable) double() {
	c.doubles = true
	c.contest.double()
	c.doubles = false
}

// told has the program bring some connections into a state that ends sooner than the timer that Go has set,
// and nobody look at them: Go ends these in time, and no others.
func (c *oneTable) told() {
	c.fresh()
	for _, flags := range []uint8{packet.SYN, packet.ACK} {
		for _, frame := range c.frames {
			c.run(frame, flags)
		}
		c.fast.Tick(c.still.now)
	}
	c.pass(61 * time.Second) // the timer that a SYN has is over: Go has looked
	for i, frame := range c.frames {
		if i%3 == 0 {
			c.run(frame, packet.RST)
		}
	}
	c.pass(62 * time.Second)
	const closed = (statesBatch + 2) / 3
	if n := c.counter("connections"); n != statesBatch-closed {
		c.t.Errorf("round %d: %d connections are left, want %d", c.rounds, n, statesBatch-closed)
	}
}

// pass has time pass.
func (c *oneTable) pass(d time.Duration) {
	for ; d > 0; d -= time.Second {
		c.still.now += time.Second
		c.fast.Tick(c.still.now)
	}
	c.still.moveClock()
}

// persistent is what the service at a port is, with a timeout of its templates.
func (c *oneTable) persistent(port uint16, timeout time.Duration) ulvs.Service {
	s := contestService(port)
	s.Scheduler, s.Persistence.Timeout = "rr", timeout
	return s
}

// left has services cease to be persistent while a program is between its choice and telling of the
// connection: of the templates that it has made nothing is left.
func (c *oneTable) left() {
	c.fresh()
	told := false
	for i, frame := range c.frames {
		if port := c.services[(c.serial-statesBatch+i)%len(c.services)]; port == 81 || port == 85 {
			told = c.alone(frame, packet.SYN) == program.ActionTX || told
		}
	}
	if !told {
		return
	}
	back := c.hideTold()
	c.must(c.fast.EditService(c.persistent(81, 0)))
	c.must(c.fast.EditService(c.persistent(85, 0)))
	back()
	c.empty()
	c.must(c.fast.EditService(c.persistent(81, 5*time.Minute)))
	c.must(c.fast.EditService(c.persistent(85, 5*time.Minute)))
}

// configure has programs on both CPUs open and change connections, each with packets of the other's too,
// while commands change services, real servers, timeouts and sysctls.
func (c *oneTable) configure() {
	c.fresh()
	var over atomic.Int32
	part := func(mine int) func() {
		return func() {
			defer over.Add(1)
			for range 4 {
				for i, frame := range c.frames {
					if i%2 == mine {
						c.run(frame, packet.SYN)
					}
					c.run(frame, packet.ACK)
					if i%4 == mine {
						c.run(frame, packet.FIN|packet.ACK)
					}
				}
			}
		}
	}
	c.lossy = true
	c.together(part(0), part(1), func() {
		for over.Load() < 2 {
			c.command()
			c.commands++
		}
	})
	c.settle()
	c.lossy = false
	c.fast.Tick(c.still.now)
	c.recount()
}

// command carries out a command, which may come at any time.
func (c *oneTable) command() {
	r := c.rng
	s := c.persistent(choose(r, c.services...), 0)
	at := netip.AddrPortFrom(pairServer(false, r.IntN(pairServers)), s.Port)
	switch r.IntN(8) {
	case 0:
		s.Scheduler = choose(r, "rr", "wrr", "wlc", "lc", "sed", "sh", "mh", "lblc")
		s.Persistence.Timeout = time.Duration(r.IntN(2)) * 5 * time.Minute
		c.must(c.fast.EditService(s))
	case 1:
		n := time.Duration(1 + r.IntN(3))
		c.must(c.fast.SetTimeouts(ulvs.Timeouts{TCP: n * 5 * time.Minute, TCPFin: n * 40 * time.Second}))
	case 2:
		c.must(c.fast.EditDestination(s.ServiceKey, ulvs.Destination{Addr: at.Addr(), Port: at.Port(), Weight: int32(r.IntN(3)),
			UpperThreshold: uint32(r.IntN(2) * 8)}))
	case 3:
		c.must(c.fast.DeleteDestination(s.ServiceKey, at))
		c.fast.Tick(c.still.now)
		c.must(c.fast.AddDestination(s.ServiceKey, ulvs.Destination{Addr: at.Addr(), Port: at.Port(), Weight: 1}))
	case 4:
		name := choose(r, "expire_nodest_conn", "expire_quiescent_template", "conn_reuse_mode", "sloppy_tcp", "sloppy_sctp")
		c.must(c.fast.SetSysctl(name, r.IntN(2)))
	case 5:
		c.must(c.fast.Conns(func(ulvs.ConnStatus) bool { return true }))
	default:
		c.fast.Tick(c.still.now)
	}
}

// settle has the configuration be as it was.
func (c *oneTable) settle() {
	c.must(c.fast.SetTimeouts(ulvs.Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}))
	for name, n := range map[string]int{"expire_nodest_conn": 0, "expire_quiescent_template": 0, "conn_reuse_mode": 1,
		"sloppy_tcp": 0, "sloppy_sctp": 0} {
		c.must(c.fast.SetSysctl(name, n))
	}
	for _, port := range c.services {
		s := contestService(port)
		c.must(c.fast.EditService(s))
		for i := range pairServers {
			c.must(c.fast.EditDestination(s.ServiceKey, ulvs.Destination{Addr: pairServer(false, i), Port: port, Weight: 1}))
		}
	}
}

// recount compares what is counted with what is listed, and has a packet of each connection that is listed go
// to the real server that the listing has.
func (c *oneTable) recount() {
	c.t.Helper()
	frames := c.frames
	c.frames = [statesBatch][]byte{}
	c.audit(nil)
	c.frames = frames
	dests := map[netip.AddrPort][]netip.AddrPort{}
	c.must(c.fast.Conns(func(s ulvs.ConnStatus) bool {
		if !s.Template {
			dests[s.Client] = append(dests[s.Client], s.Dest)
		}
		return true
	}))
	for _, frame := range c.frames {
		client := clientOf(frame)
		list := dests[client]
		if len(list) == 0 {
			continue
		}
		if to := c.server(frame); len(list) > 1 || to != list[0].Addr() {
			c.t.Errorf("round %d: a packet of %v goes to %v, and listed are %v", c.rounds, client, to, list)
		}
	}
}

// server is the real server to which an ACK goes.
func (c *oneTable) server(frame []byte) netip.Addr {
	frame = withFlags(frame, packet.ACK)
	action, out, err := runByHand(c.still.prog, frame)
	c.must(err)
	last := out[5]
	if action != program.ActionTX {
		list := []dataplane.Frame{{Data: slices.Clone(frame), In: 1, Room: make([]byte, 0, 2048)}}
		c.fast.Handle(c.still.now, list)
		if list[0].Verdict != dataplane.Transmit {
			c.t.Errorf("round %d: a packet of %v was not forwarded: verdict %d", c.rounds, clientOf(frame), list[0].Verdict)
			return netip.Addr{}
		}
		last = list[0].Hop.Neighbor().Dst[5]
	}
	return pairServer(false, int(last)-200)
}

// kill has directors be killed and replaced while programs on both CPUs go on. What they have opened, the
// last one knows.
func (c *oneTable) kill() {
	c.fresh()
	var over atomic.Bool
	var opened [statesBatch]bool
	var turns [2]atomic.Int32
	part := func(mine int) func() {
		return func() {
			for n := 0; !over.Load(); n++ {
				i := n*2%statesBatch + mine
				turns[mine].Add(1)
				if !opened[i] {
					opened[i] = c.alone(c.frames[i], packet.SYN) == program.ActionTX
				}
				if opened[i] && n%3 > 0 {
					c.alone(c.frames[i], packet.ACK)
				}
			}
		}
	}
	c.together(part(0), part(1), func() {
		defer over.Store(true)
		for range 2 {
			for until := turns[0].Load() + c.rng.Int32N(statesBatch); turns[0].Load() < until; {
				runtime.Gosched()
			}
			c.start()
			c.deaths++
		}
	})
	c.fast.Tick(c.still.now)
	states := map[netip.AddrPort]string{}
	c.must(c.fast.Conns(func(s ulvs.ConnStatus) bool {
		if !s.Template {
			states[s.Client] = s.State
		}
		return true
	}))
	for i, frame := range c.frames {
		if !opened[i] {
			continue
		}
		c.opened++
		switch states[clientOf(frame)] {
		case "ESTABLISHED":
			c.established++
		case "":
			c.t.Errorf("round %d: the connection of %v is not known after directors were replaced", c.rounds, clientOf(frame))
		}
	}
	c.recount()
}

// flood has SYNs of clients that do not answer come to both CPUs, more than the table has room for, beside
// connections that are established and end.
func (c *oneTable) flood() {
	c.fresh()
	for _, frame := range c.frames {
		c.run(frame, packet.SYN)
		c.run(frame, packet.ACK)
	}
	serial := c.serial
	c.serial += 2 * tableMax
	c.lossy = true
	for range 2 { // the first fills the table, the second finds what has waited
		part := func(mine int) func() {
			return func() {
				for n := range tableMax {
					if n%2 == mine {
						c.run(c.syn(serial+n), packet.SYN)
					}
					if n%16 == mine {
						c.alone(c.frames[n/16%statesBatch], packet.ACK)
					}
				}
			}
		}
		c.together(part(0), part(1), func() {
			for range 8 {
				c.fast.Tick(c.still.now)
			}
		})
		serial += tableMax
		c.pass(4 * time.Second)
	}
	c.lossy = false
	n := c.counter("connections")
	if c.most = max(c.most, n); c.least == 0 {
		c.least = n
	}
	c.least = min(c.least, n)
	if n < c.most*3/4 {
		c.t.Errorf("round %d: the table has %d connections at the end of a flood, and had %d before", c.rounds, n, c.most)
	}
	c.audit(func(int) string { return "ESTABLISHED" })
	c.recount()
}

func clientOf(frame []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(frame[26:30])), uint16(frame[34])<<8|uint16(frame[35]))
}
