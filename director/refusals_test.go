package director_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
)

// What commands are refused with, word for word, and that nothing is changed by them. Run
// with -update to write the golden file anew, and read what it says.
func TestRefusalsGolden(t *testing.T) {
	b := newBed(t, director.Options{})
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	before := fmt.Sprint(b.Services())
	add := func(change func(s *ulvs.Service)) func() error {
		s := ulvs.Service{ServiceKey: tcp(81), Scheduler: "rr"}
		change(&s)
		return func() error { return b.AddService(s) }
	}
	server := func(change func(d *ulvs.Destination)) func() error {
		d := dest(k, 7, 1)
		change(&d)
		return func() error { return b.AddDestination(k, d) }
	}
	at := func(addr string) func(*ulvs.Destination) {
		return func(d *ulvs.Destination) { d.Addr = netip.MustParseAddr(addr) }
	}
	var got strings.Builder
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"a scheduler that is not there", add(func(s *ulvs.Service) { s.Scheduler = "nosuch" })},
		{"a persistence engine that is not there", add(func(s *ulvs.Service) { s.Persistence.Engine = "nosuch" })},
		{"no address and no mark", add(func(s *ulvs.Service) { s.Addr = netip.Addr{} })},
		{"an address and a mark", add(func(s *ulvs.Service) { s.Mark = 7 })},
		{"a protocol without ports", add(func(s *ulvs.Service) { s.Protocol = 47 })},
		{"a fraction of a second", add(func(s *ulvs.Service) { s.Persistence.Timeout = time.Millisecond })},
		{"a netmask of IPv6", add(func(s *ulvs.Service) { s.Persistence.Netmask = netip.MustParseAddr("ffff::") })},
		{"no netmask", add(func(s *ulvs.Service) {
			s.Addr = netip.MustParseAddr(vip6)
			s.Persistence.Netmask = netip.MustParseAddr("ff00:ff00::")
		})},
		{"a zone", add(func(s *ulvs.Service) { s.Addr = netip.MustParseAddr("fe80::1%eth0") })},
		{"a service again", func() error { return b.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}) }},
		{"a service that is not there, edited", func() error { return b.EditService(ulvs.Service{ServiceKey: tcp(82), Scheduler: "rr"}) }},
		{"deleted", func() error { return b.DeleteService(tcp(82)) }},
		{"zeroed", func() error { return b.Zero(tcp(82)) }},
		{"looked at", func() error { _, err := b.Service(tcp(82)); return err }},
		{"a weight below 0", server(func(d *ulvs.Destination) { d.Weight = -1 })},
		{"thresholds", server(func(d *ulvs.Destination) { d.UpperThreshold, d.LowerThreshold = 1, 2 })},
		{"gue without a port", server(func(d *ulvs.Destination) { d.Forward, d.TunnelType = ulvs.Tunnel, ulvs.GUE })},
		{"a forwarding method that is not there", server(func(d *ulvs.Destination) { d.Forward = 9 })},
		{"another family", server(at("fd00::1"))},
		{"no address", func() error { return b.AddDestination(k, ulvs.Destination{Forward: ulvs.Tunnel}) }},
		{"a server's zone", server(func(d *ulvs.Destination) {
			d.Addr, d.Forward = netip.MustParseAddr("fe80::1%eth0"), ulvs.Tunnel
		})},
		{"a multicast address", server(at("224.0.0.1"))},
		{"a broadcast address", server(at("255.255.255.255"))},
		{"a server again", func() error { return b.AddDestination(k, dest(k, 0, 1)) }},
		{"a server that is not there, edited", func() error { return b.EditDestination(k, dest(k, 9, 1)) }},
		{"removed", func() error { return b.DeleteDestination(k, netip.MustParseAddrPort("192.168.10.77:80")) }},
		{"a timeout of no seconds", func() error { return b.SetTimeouts(ulvs.Timeouts{TCP: time.Millisecond}) }},
		{"a sysctl that is not there", func() error { return b.SetSysctl("nosuch", 1) }},
		{"one that is not there, read", func() error { _, err := b.Sysctl("nosuch"); return err }},
		{"a sysctl's value", func() error { return b.SetSysctl("drop_entry", 4) }},
		{"a change that is none", func() error {
			return b.Batch([]ulvs.Change{{Verb: "nosuch"}}, func(_ int, err error) bool { fmt.Fprintln(&got, "  answer:", err); return true })
		}},
	} {
		fmt.Fprintf(&got, "%s:\n", c.what)
		fmt.Fprintf(&got, "  %v\n", c.do())
	}
	const file = "testdata/refusals.golden"
	if *director.Update {
		b.must(os.WriteFile(file, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got.String() {
		t.Errorf("%v\n%s\nwant\n%s", err, &got, want)
	}
	if after := fmt.Sprint(b.Services()); after != before {
		t.Errorf("refused commands have changed the services:\n%s\nwere\n%s", after, before)
	}
}
