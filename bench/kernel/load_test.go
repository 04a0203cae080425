package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/bench/wire"
)

// load is what packets there are, and for what service.
type load struct {
	name string
	// flows is how many connections there are; 0: each packet is a new one's first.
	flows uint32
	// whole has each connection send six packets: SYN, ACK, data, ACK, FIN, ACK.
	whole bool
	// modes has ulvs take part in all its modes.
	modes bool
	// small has IPVS's table be as Debian has it.
	small bool

	// scheduler is the service's; "" is rr. servers is how many real ones it has; 0 is 2.
	scheduler string
	servers   uint32
	// persistence is the service's, in seconds.
	persistence uint32
	// portBits is how many bits of a connection's number are in the client's port: two
	// to that many connections are of one client.
	portBits uint8
	// limited: the real servers have thresholds, which are not reached.
	limited bool
	// rules is how many rules there are, of which the last gives the service's packets its
	// firewall mark; 0: the service is by address.
	rules int
	// byClient has rules look at the client in place of the port: none but the last is for a client's
	// network, so that all of them are read.
	byClient bool

	udp, onePacket, vlan, six bool
}

var loads = slices.Concat([]load{
	{name: "established/1", flows: 1, modes: true},
	{name: "established/10000", flows: 10_000, modes: true},
	{name: "established/100000", flows: 100_000, modes: true},
}, scheduled("rr", "wlc", "lc", "sed", "nq", "ovf", "fo", "sh"), []load{
	{name: "new/rr-p300", persistence: 300, modes: true},
	{name: "new/rr-p300-16-a-client", persistence: 300, portBits: 4},
	{name: "new/dh", scheduler: "dh"},
	{name: "new/mh", scheduler: "mh"},
	{name: "new/rr-thresholds", limited: true},
	{name: "new/rr-udp", udp: true},
	{name: "new/rr-udp-ops", udp: true, onePacket: true},
	{name: "new/rr-vlan", vlan: true},
	{name: "new/rr-ipv6", six: true},
	{name: "new/mark", rules: 1, modes: true},
	{name: "new/mark-p300", rules: 1, persistence: 300},
	{name: "new/mark-100-rules", rules: 100},
	{name: "new/mark-100-client-rules", rules: 100, byClient: true},
	{name: "connection/rr", whole: true, modes: true},
	{name: "connection/rr-p300", whole: true, persistence: 300},
	{name: "connection/mark", whole: true, rules: 1},
	{name: "4096-buckets/established/1", flows: 1, small: true},
	{name: "4096-buckets/established/100000", flows: 100_000, small: true},
	{name: "4096-buckets/new/rr", small: true},
	{name: "4096-buckets/new/rr-p300", persistence: 300, small: true},
})

// scheduled are loads of new connections, by 2, 16 and 64 real servers.
func scheduled(schedulers ...string) (list []load) {
	for _, name := range schedulers {
		for _, n := range []uint32{2, 16, 64} {
			l := load{name: fmt.Sprintf("new/%s/%d", name, n), scheduler: name, servers: n}
			l.modes = name == "rr" && n == 2
			list = append(list, l)
		}
	}
	return list
}

func (l load) schedulerName() string {
	if l.scheduler == "" {
		return "rr"
	}
	return l.scheduler
}

// weight is a real server's: ovf counts connections up to it.
func (l load) weight() int32 {
	if l.scheduler == "ovf" {
		return 1 << 24
	}
	return 1
}

// thresholds are those of the real servers.
func (l load) thresholds() (upper, lower uint32) {
	if l.limited {
		return 1 << 24, 1 << 23
	}
	return 0, 0
}

// The addresses. Clients have 10.0.0.0/8 or fd01::/104, one flow after the other.
func (l load) virtual() netip.AddrPort {
	if l.six {
		return netip.MustParseAddrPort("[fd00:10::65]:80")
	}
	return netip.MustParseAddrPort("192.168.10.101:80")
}

func (l load) client() netip.AddrPort {
	if l.six {
		return netip.MustParseAddrPort("[fd01::a00:0]:1024")
	}
	return netip.MustParseAddrPort("10.0.0.0:1024")
}

func (l load) clients() netip.Prefix {
	if l.six {
		return netip.MustParsePrefix("fd01::a00:0/104")
	}
	return netip.MustParsePrefix("10.0.0.0/8")
}

// address is the director's own.
func (l load) address() netip.Prefix {
	if l.six {
		return netip.MustParsePrefix("fd00:10::1/64")
	}
	return netip.MustParsePrefix("192.168.10.1/24")
}

// reals are the real servers, the first of which is numbered 1.
func (l load) reals() (list []netip.Addr) {
	first := netip.MustParseAddr("192.168.10.111")
	if l.six {
		first = netip.MustParseAddr("fd00:10::6f")
	}
	for a, n := first, max(l.servers, 2); n > 0; n-- {
		list = append(list, a)
		a = a.Next()
	}
	return list
}

// manyServers is the most that a load has.
const manyServers = 64

// newFlows is how many new connections there can be without using an address twice.
const newFlows = 1 << 24

// vlan is the VLAN in which tagged frames are.
const vlan = 10

// steps are the kinds of packets that a connection sends one after the other, without
// link addresses.
func (l load) steps() []wire.Traffic {
	t := wire.Traffic{Client: l.client(), Service: l.virtual(), PortBits: l.portBits, UDP: l.udp}
	if l.vlan {
		t.VLAN = vlan
	}
	if l.flows > 0 {
		t.Flows, t.Random, t.Seed = l.flows, true, 1
		return []wire.Traffic{t}
	}
	t.Flows = newFlows
	ack, syn := t, t
	syn.SYN = !l.udp
	if !l.whole {
		return []wire.Traffic{syn}
	}
	data, fin := t, t
	data.Payload, fin.FIN = 100, true
	return []wire.Traffic{syn, ack, data, ack, fin, ack}
}

// opening are the packets by which a load's connections come to be: those that each
// client sends first.
func (l load) opening() (list []wire.Traffic) {
	if l.flows == 0 {
		return nil
	}
	for _, syn := range []bool{true, false} {
		t := l.steps()[0]
		t.Random, t.SYN = false, syn
		list = append(list, t)
	}
	return list
}

func TestLoads(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range loads {
		if seen[l.name] {
			t.Errorf("there are two loads %s", l.name)
		}
		seen[l.name] = true
		var flags []string
		for _, o := range append(l.opening(), l.steps()...) {
			flags = append(flags, fmt.Sprintf("SYN %v FIN %v of %d", o.SYN, o.FIN, o.Flows))
			if last := o.ClientOf(o.Flows - 1); !l.clients().Contains(last.Addr()) {
				t.Errorf("%s: the last client is %v", l.name, last)
			}
		}
		const ack, syn, fin = "SYN false FIN false of %d", "SYN true FIN false of %d", "SYN false FIN true of %d"
		want := []string{syn}
		n := uint32(newFlows)
		switch {
		case l.flows > 0:
			n, want = l.flows, []string{syn, ack, ack}
		case l.udp:
			want = []string{ack}
		case l.whole:
			want = []string{syn, ack, ack, ack, fin, ack}
		}
		packets := strings.ReplaceAll(strings.Join(want, ", "), "%d", fmt.Sprint(n))
		if got := strings.Join(flags, ", "); got != packets {
			t.Errorf("%s: %s, not %s", l.name, got, packets)
		}
		if n := len(l.reals()); n > manyServers || !l.address().Contains(l.reals()[n-1]) {
			t.Errorf("%s: %d real servers, up to %v", l.name, n, l.reals()[n-1])
		}
	}
}
