package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ulvs/ulvs/bench/wire"
)

// load is what packets there are.
type load struct {
	name string
	// flows is how many connections there are; 0: each packet is a new one's first.
	flows uint32
	// persistence is the service's, in seconds.
	persistence uint32
	// portBits is how many bits of a connection's number are in the client's port: two
	// to that many connections are of one client.
	portBits uint8
}

var loads = []load{
	{name: "established/1", flows: 1},
	{name: "established/10000", flows: 10_000},
	{name: "established/100000", flows: 100_000},
	{name: "new/plain"},
	{name: "new/persistent", persistence: 300},
	{name: "new/persistent-16-a-client", persistence: 300, portBits: 4},
}

// The addresses. Clients have 10.0.0.0/8, one flow after the other.
var (
	virtual = netip.MustParseAddrPort("192.168.10.101:80")
	client  = netip.MustParseAddrPort("10.0.0.0:1024")
	own     = netip.MustParsePrefix("192.168.10.1/24")
	servers = []netip.Addr{netip.MustParseAddr("192.168.10.201"), netip.MustParseAddr("192.168.10.202")}
)

// newFlows is how many new connections there can be without using an address twice.
const newFlows = 1 << 24

// traffic of a load, without link addresses.
func (l load) traffic() wire.Traffic {
	t := wire.Traffic{Client: client, Service: virtual, PortBits: l.portBits, Flows: l.flows, Random: true, Seed: 1}
	if l.flows == 0 {
		t.Flows, t.Random, t.SYN = newFlows, false, true
	}
	return t
}

// opening is the traffic by which a load's connections come to be: the packets that
// each client sends first.
func (l load) opening() (list []wire.Traffic) {
	if l.flows == 0 {
		return nil
	}
	for _, syn := range []bool{true, false} {
		t := l.traffic()
		t.Random, t.SYN = false, syn
		list = append(list, t)
	}
	return list
}

func TestLoads(t *testing.T) {
	for _, l := range loads {
		var flags []string
		for _, o := range append(l.opening(), l.traffic()) {
			flags = append(flags, fmt.Sprintf("SYN %v of %d", o.SYN, o.Flows))
		}
		want := fmt.Sprintf("[SYN true of %d SYN false of %d SYN false of %d]", l.flows, l.flows, l.flows)
		if l.flows == 0 {
			want = "[SYN true of 16777216]"
		}
		if got := fmt.Sprint(flags); got != want {
			t.Errorf("%s: %s, not %s", l.name, got, want)
		}
		last := l.traffic().ClientOf(l.traffic().Flows - 1)
		if !netip.MustParsePrefix("10.0.0.0/8").Contains(last.Addr()) {
			t.Errorf("%s: the last client is %v", l.name, last)
		}
	}
}
