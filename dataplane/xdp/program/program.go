// Package program is the XDP program's emitter: it assembles, for an interface and a
// director's tables, the instructions by which a packet goes. It is pure: maps are numbers
// to it, and it runs on any system.
//
// The files are in packet order: parse, lookup, forward; where there is no connection
// miss, open, rules, insert. Each is a layer in which the one before is embedded. A step is a
// method whose comment ends with the registers that it takes, gives and loses;
// TestRegisters holds that against the instructions.
package program

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
)

// Config is what a program is made for.
type Config struct {
	accel.Acceleration
	// Conns, Servers, Counts and Settings are file descriptors of maps.
	Conns, Servers, Counts, Settings int
	// ConnCounts is that of where real servers' connections are counted (accel.Counted); 0 where
	// none are opened.
	ConnCounts int
	// Sockets are those of the interface's first Queues queues, 0 where there are none, and Claims the
	// services whose connections are opened, or whose first packets the sockets get, in so many
	// buckets (preselect.Claims).
	Sockets, Queues, Claims, ClaimBuckets int
	// Crossings count what is Go's (accel.Crossing); 0 where that is not done.
	Crossings int
	// Rules are lists that give packets marks, to which claims lead.
	Rules int
	// Services, Sequences, TemplateTable and Rings are what connections are opened by; 0 where
	// none are.
	Services, Sequences, TemplateTable, Rings int
	// WeakOrder says that the processors may load words in another order than that in which the
	// program does: all but amd64's.
	WeakOrder bool
	// LookupHelper says that the connection table is an array of slots, in which a helper
	// function looks, and not one large element, which is addressed as memory.
	LookupHelper bool
	Hook         Hook            // where the program is attached
	GivesBack    bool            // Go has a way to give the host what the program has taken away
	Behind       bool            // of XDP: a program at TC gets what is passed, and sends by any interface
	Private      int             // of TC: the number of the interface by which Go gets packets, or 0
	Ifindex      int             // of the interface that the program is for
	MACs         []dataplane.MAC // that frames to the director have
	Ticks        Ticks           // how time is read
	// ServersPerCPU is how many servers have a count, of each of CPUs.
	ServersPerCPU, CPUs int
	// Compared is how many real servers are compared at most, up to preselect.MostCompared: the
	// verifier looks at each. Services that have more are Go's, unless one before that decides.
	Compared int
	// Hashed, if not 0, is a BPF hash map with the table's IPv4 entries, to be used in its
	// place: what others do, to compare with. Its keys have all five words, or only the
	// two that IPv4 needs.
	Hashed      int
	HashedWords int16
	// Path is what is done with a packet whose connection was found: Forward, or for
	// benchmarks a part of it.
	Path []Step
}

// Step emits a step of a packet's way.
type Step func(*Program)

// Forward is the way of a packet whose connection was found.
func Forward() []Step {
	return []Step{(*Program).checkState, (*Program).rewriteMACs, (*Program).countPacket, (*Program).stampEntry,
		(*Program).decrementTTL, (*Program).send}
}

// Program is what is being emitted.
type Program struct{ opener }

// Assemble emits the program, in the order in which a packet goes through it. Frames with
// VLAN tags have all of it again, with other offsets.
func (c *Config) Assemble() asm.Instructions { return c.assemble(false).out }

// Listing returns what Assemble emits, for people: each step says what it does.
func (c *Config) Listing() string { return fmt.Sprintf("%v", c.assemble(true).out) }

func (c *Config) assemble(listing bool) *Program {
	p := new(Program)
	p.Config, p.listing = *c, listing
	p.begin()
	p.filterMAC()
	for p.tags = 0; p.tags <= p.maxTags(); p.tags++ {
		p.six = false
		p.parseEther()
		for _, p.six = range p.families() {
			if p.six {
				p.parseIPv6()
			} else {
				p.parseIPv4()
			}
			p.hashKey()
			p.lookup()
			for _, step := range p.Path {
				step(p)
			}
			p.miss()
			p.strange()
			p.unclaimed()
		}
	}
	p.pass()
	return p
}
