package director_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
)

// Nothing on the packet path allocates: a batch of 64 through plane and handler,
// for every kind of packet, and the expiry of what they made.
func TestAllocates(t *testing.T) {
	const batch = 64
	b := emptyBed(t)
	b.plane.SetErrorLimits(dataplane.ErrorLimits{}, nil) // of answers, which come in floods here
	b.begin(director.Options{Connections: 10_000, RSTs: -1}, b.plane)
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "wlc"}, 4)
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "wrr"}, 4)
	b.service(persistent(tcp(443), "rr", time.Minute), 4)
	b.service(persistent(ulvs.ServiceKey{Mark: 10}, "rr", time.Minute), 4)
	for _, port := range []string{"8080", "8443"} {
		_, err := b.MarkCommand(false, strings.Fields("-t mangle -A PREROUTING -i eth0 -p tcp --dport "+port+" -d "+vip+" -j MARK --set-mark 10"))
		b.must(err)
	}
	frames := func(f func(i int) []byte) (list []dataplane.Frame) {
		for i := range batch {
			list = append(list, dataplane.Frame{Data: f(i), In: eth0})
		}
		return list
	}
	from := func(i, port int) string { return fmt.Sprintf("10.1.%d.%d:%d", i/8, i%8+1, port) }
	syn := func(to string) func(int) []byte {
		return func(i int) []byte {
			return pkt{src: from(i, 1000), dst: vip + ":" + to, flags: "S"}.frame(t)
		}
	}
	established := frames(func(i int) []byte { return pkt{src: from(i, 2000), dst: vip + ":80", flags: "A", size: 500}.frame(t) })
	b.plane.Deliver(frames(func(i int) []byte { return pkt{src: from(i, 2000), dst: vip + ":80", flags: "S"}.frame(t) })...)
	// Ten minutes are more than a new connection has, and less than an
	// established one.
	forget := func() {
		b.move(10 * time.Minute)
		b.plane.Deliver(established...)
	}
	for _, tt := range []struct {
		name   string
		frames []dataplane.Frame
		after  func()
		want   string // every frame's verdict
	}{
		{"established", established, nil, "Transmit"},
		{"new", frames(syn("80")), forget, "Transmit"},
		{"new with template", frames(syn("443")), forget, "Transmit"},
		{"marked", frames(syn("8443")), forget, "Transmit"},
		{"fragments", frames(func(i int) []byte {
			p := pkt{proto: "udp", src: from(i/2, 1000), dst: vip + ":53", size: 800, fragID: uint16(i / 2), moreFragments: true}
			if i%2 == 1 {
				p.fragOffset = 101
			}
			return p.frame(t)
		}), forget, "Transmit"},
		{"ICMP errors", frames(func(i int) []byte {
			return icmpError(t, pkt{src: vip + ":80", dst: from(i, 2000), flags: "A"}, false)
		}), nil, "Transmit"},
		{"answers", frames(func(i int) []byte {
			switch i % 4 {
			case 0:
				return arp(t, vip)
			case 1:
				return echo(t, vip)
			case 2:
				return pkt{src: from(i, 1), dst: vip + ":81", flags: "S"}.frame(t)
			}
			return pkt{proto: "udp", src: from(i, 1), dst: vip + ":81"}.frame(t)
		}), nil, "Transmit"},
		{"not ours", frames(func(i int) []byte {
			return pkt{src: from(i, 1), dst: "192.168.10.77:80", flags: "S"}.frame(t)
		}), nil, "Pass"},
		{"damaged", frames(func(i int) []byte { return syn("80")(i)[:40] }), nil, "Pass"},
	} {
		allocs := testing.AllocsPerRun(20, func() {
			results := b.plane.Deliver(tt.frames...)
			for i := range results {
				if got := results[i].Verdict; (got == dataplane.Transmit) != (tt.want == "Transmit") || got == dataplane.Drop {
					t.Fatalf("%s: frame %d: verdict %d", tt.name, i, got)
				}
			}
			if tt.after != nil {
				tt.after()
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations a batch", tt.name, allocs)
		}
		if tt.after != nil {
			if got := b.counter("connections"); got != batch {
				t.Errorf("%s: %d connections are left, want the %d established", tt.name, got, batch)
			}
		}
	}
}

// Nor do answers that are not given, as there were enough.
func TestAllocatesUnsent(t *testing.T) {
	const batch = 64
	b := newBed(t, director.Options{Connections: 10_000})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "wrr"}, 0)
	var frames []dataplane.Frame
	for i := range batch {
		p := pkt{src: fmt.Sprintf("10.1.1.%d:1", i%8+1), dst: vip + ":81", flags: "S"}
		if i%2 == 1 {
			p.proto, p.dst = "udp", vip+":53"
		}
		frames = append(frames, dataplane.Frame{Data: p.frame(t), In: eth0})
	}
	for range 10 {
		b.plane.Deliver(frames...)
	}
	before := b.counter("rst_limited") + b.counter("icmp_limited_client")
	const runs = 20
	if allocs := testing.AllocsPerRun(runs, func() { b.plane.Deliver(frames...) }); allocs != 0 {
		t.Errorf("%v allocations a batch", allocs)
	}
	if n := b.counter("rst_limited") + b.counter("icmp_limited_client") - before; n < runs*batch*9/10 {
		t.Errorf("%d answers were not given, of %d", n, runs*batch)
	}
}
