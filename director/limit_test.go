package director_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
)

// fates counts what becomes of n packets.
func (b *bed) fates(n int, packet func(i int) pkt) map[string]int {
	b.t.Helper()
	count := map[string]int{}
	for i := range n {
		count[b.send(packet(i))]++
	}
	return count
}

func expectFates(t *testing.T, what string, got map[string]int, want string) {
	t.Helper()
	if text := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(got), "map["), "]"); text != want {
		t.Errorf("%s: %s, want %s", what, text, want)
	}
}

// Each ICMP error that the director gives in its host's place or in IPVS's is given as
// often as the host would: to one client six at once, and one a second then. What
// discovers path MTUs is not limited.
func TestErrorLimits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		packet pkt // the source port goes up
		want   string
	}{
		{"no usable server", pkt{proto: "udp", dst: vip + ":53"}, "drop:94 icmp 3/3:6"},
		{"no service", pkt{proto: "udp", dst: vip + ":54"}, "drop:94 icmp 3/3:6"},
		{"no protocol", pkt{proto: "sctp", dst: vip + ":54", payload: "\x01\x00\x00\x04"}, "drop:94 icmp 3/2:6"},
		{"TTL", pkt{dst: vip + ":80", flags: "S", ttl: 1}, "drop:94 icmp 11/0:6"},
		{"no route", pkt{dst: vip + ":81", flags: "S"}, "drop:94 icmp 3/1:6"},
		{"too large", pkt{dst: vip + ":80", flags: "S", df: true, size: 2000}, "icmp 3/4:100"},
		{"IPv6: no usable server", pkt{proto: "udp", dst: "[" + vip6 + "]:53"}, "drop:94 icmp6 1/4:6"},
		{"IPv6: TTL", pkt{dst: "[" + vip6 + "]:80", flags: "S", ttl: 1}, "drop:94 icmp6 3/0:6"},
		{"IPv6: too large", pkt{dst: "[" + vip6 + "]:80", flags: "S", size: 2000}, "icmp6 2/0:100"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, director.Options{})
			b.plane.SetWithholds(true)
			for _, a := range []string{vip, vip6} {
				for port, servers := range map[uint16]int{53: 0, 80: 1} {
					k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(a), Port: port}
					if port == 53 {
						k.Protocol = ulvs.UDP
					}
					b.service(ulvs.Service{ServiceKey: k, Scheduler: "rr"}, servers)
				}
			}
			b.service(ulvs.Service{ServiceKey: tcp(81), Scheduler: "rr"}, 0)
			b.must(b.AddDestination(tcp(81), ulvs.Destination{Addr: netip.MustParseAddr("198.51.100.1"), Port: 81, Weight: 1}))
			from := func(client, port int) pkt {
				p := tt.packet
				p.src = fmt.Sprintf("10.1.1.%d:%d", client, port)
				if strings.HasPrefix(p.dst, "[") {
					p.src = fmt.Sprintf("[fd01::%d]:%d", client, port)
				}
				return p
			}
			expectFates(t, "a client", b.fates(100, func(i int) pkt { return from(1, 1000+i) }), tt.want)
			if strings.HasPrefix(tt.want, "icmp") {
				return
			}
			if got := b.counter("icmp_limited_client"); got != 94 || b.counter("icmp_limited_global") != 0 {
				t.Errorf("counted %d of a client, %d of all", got, b.counter("icmp_limited_global"))
			}
			_, name, _ := strings.Cut(tt.want, ":94 ")
			b.move(3 * time.Second)
			expectFates(t, "three seconds later", b.fates(100, func(i int) pkt { return from(1, 2000+i) }),
				"drop:97 "+strings.Replace(name, ":6", ":3", 1))
			expectFates(t, "another client", b.fates(6, func(i int) pkt { return from(2, 3000+i) }), name)
		})
	}
}

// A flood from many clients: all together are sent what net.ipv4.icmp_msgs_per_sec says,
// of both families, and RSTs are a budget of their own.
func TestErrorFlood(t *testing.T) {
	b := newBed(t, director.Options{})
	b.plane.SetWithholds(true)
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 0)
	k := udp(53)
	k.Addr = netip.MustParseAddr(vip6)
	b.service(ulvs.Service{ServiceKey: k, Scheduler: "rr"}, 0)
	count := map[string]int{}
	const seconds = 10
	for ms := range seconds * 1000 / 4 {
		for i := range 12 { // 3,000 a second
			n := ms*12 + i
			p := pkt{proto: "udp", src: fmt.Sprintf("10.%d.%d.%d:1000", n>>16, n>>8&255, n&255), dst: vip + ":53"}
			switch i % 3 {
			case 1:
				p.src, p.dst = fmt.Sprintf("[fd01::%x:%x]:1000", n>>16, n&0xffff), "["+vip6+"]:53"
			case 2:
				p.proto, p.dst, p.flags = "", vip+":81", "S"
			}
			count[b.send(p)]++
		}
		b.plane.Advance(4 * time.Millisecond)
	}
	// Messages take one from the bucket on the average, by chance.
	if n := count["icmp 3/3"] + count["icmp6 1/4"]; n < seconds*1000*95/100 || n > seconds*1000*105/100+50 {
		t.Errorf("%d ICMP errors in %d s", n, seconds)
	}
	if count["icmp 3/3"] == 0 || count["icmp6 1/4"] == 0 {
		t.Errorf("%v: not of both families", count)
	}
	if n := count["rst"]; n != seconds*1000 {
		t.Errorf("%d RSTs in %d s, of as many that are within the budget", n, seconds)
	}
	if got := int(b.counter("icmp_limited_global")); got != 20_000-count["icmp 3/3"]-count["icmp6 1/4"] {
		t.Errorf("%d were counted as not sent: %v", got, count)
	}
	if got, sent := int(b.counter("answers")), 30_000-count["drop"]; got != sent {
		t.Errorf("%d answers were counted, %d sent", got, sent)
	}
}

// RSTs have a budget for each interface, of a tenth of a second's at once.
func TestRSTBudget(t *testing.T) {
	flood := func(b *bed, n, in int) (sent int) {
		syn := dataplane.Frame{Data: pkt{src: "10.1.1.1:1", dst: vip + ":81", flags: "S"}.frame(b.t), In: in}
		for range n {
			if b.fate(b.plane.Deliver(syn)[0]) == "rst" {
				sent++
			}
		}
		return sent
	}
	begin := func(rsts int) *bed {
		b := newBed(t, director.Options{RSTs: rsts})
		b.plane.SetWithholds(true)
		b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 0)
		return b
	}
	for _, tt := range []struct{ rsts, once, second int }{{0, 100, 1000}, {50, 5, 50}, {5, 1, 5}, {-1, 2000, 50_000}} {
		b := begin(tt.rsts)
		if got := flood(b, 2000, eth0); got != tt.once {
			t.Errorf("of %d: %d at once, want %d", tt.rsts, got, tt.once)
		}
		if got := flood(b, 2000, eth0+1); got != tt.once {
			t.Errorf("of %d: %d at once on another interface, want %d", tt.rsts, got, tt.once)
		}
		second := 0
		for range 250 {
			b.plane.Advance(4 * time.Millisecond)
			second += flood(b, 200, eth0)
		}
		if second < tt.second*9/10 || second > tt.second {
			t.Errorf("of %d: %d in a second, want %d", tt.rsts, second, tt.second)
		}
		if got, all := int(b.counter("rst_limited")), 2*2000+250*200; got != all-2*tt.once-second {
			t.Errorf("of %d: %d were counted as not sent, of %d", tt.rsts, got, all)
		}
	}
}

// A real server that does not answer: of the packets that waited for it the host would
// tell their senders so often too.
func TestDeadNeighbourLimits(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	server := netip.MustParseAddr(serverAddr(0))
	b.resolver.Set(server, dataplane.Neighbor{State: dataplane.HopResolving, Ifindex: eth0, MTU: 1500})
	expectFates(t, "while it is asked", b.fates(50, func(i int) pkt {
		return pkt{src: fmt.Sprintf("10.1.1.1:%d", 1000+i), dst: vip + ":80", flags: "S"}
	}), "parked:50")
	b.resolver.Set(server, dataplane.Neighbor{State: dataplane.HopUnreachable, Ifindex: eth0, MTU: 1500})
	if sent := len(b.plane.Sent()); sent != 6 || b.counter("parked_lost") != 50 || b.counter("icmp_limited_client") != 44 {
		t.Errorf("%d answers, %d lost, %d answers not given", sent, b.counter("parked_lost"), b.counter("icmp_limited_client"))
	}
}

// The host's sysctls are read at the start and followed; while they cannot be read,
// what was known holds on, and the log says so once.
func TestErrorLimitsFollow(t *testing.T) {
	b := emptyBed(t)
	var log bytes.Buffer
	none := dataplane.DefaultErrorLimits()
	none.Mask, none.Mask6 = 1, [4]uint64{2: 1 << 1} // echo replies alone
	b.plane.SetErrorLimits(none, nil)
	b.begin(director.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, b.plane)
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 0)
	client, n := 0, 0
	flood := func(what, want string) {
		t.Helper()
		client++
		expectFates(t, what, b.fates(20, func(int) pkt {
			n++
			return pkt{proto: "udp", src: fmt.Sprintf("10.1.1.%d:%d", client, 1000+n), dst: vip + ":53"}
		}), want)
	}
	flood("no error is limited", "icmp 3/3:20")
	echoes := 0
	for range 20 {
		if b.fate(b.plane.Deliver(dataplane.Frame{Data: echo(t, vip), In: eth0})[0]) == "echo-reply" {
			echoes++
		}
	}
	if echoes != 6 {
		t.Errorf("%d echo replies of 20, want the 6 that the mask permits", echoes)
	}
	limits := dataplane.DefaultErrorLimits()
	b.plane.SetErrorLimits(limits, nil)
	flood("a change that nobody has read yet", "icmp 3/3:20")
	b.move(5 * time.Second)
	flood("the kernel's defaults", "drop:14 icmp 3/3:6")
	limits.Interval = 0
	limits.Burst = 10
	b.plane.SetErrorLimits(limits, errors.New("no such file"))
	for range 3 {
		b.move(5 * time.Second)
	}
	flood("not to be read", "drop:14 icmp 3/3:6")
	if got := strings.Count(log.String(), "no such file"); got != 1 {
		t.Errorf("said %d times:\n%s", got, log.String())
	}
	b.plane.SetErrorLimits(limits, nil)
	b.move(5 * time.Second)
	flood("to be read again", "icmp 3/3:20") // the bucket of all has some of its 50 left
	for b.send(pkt{proto: "udp", src: "10.1.1.99:1", dst: vip + ":53"}) != "drop" {
	}
	if b.counter("icmp_limited_global") == 0 {
		t.Error("none was dropped for all clients")
	}
}

// A plane that knows nothing of its host is given the kernel's defaults.
func TestErrorLimitsUnknown(t *testing.T) {
	b := emptyBed(t)
	b.begin(director.Options{}, struct{ dataplane.Plane }{b.plane})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 0)
	b.plane.SetErrorLimits(dataplane.ErrorLimits{}, nil)
	b.move(10 * time.Second)
	expectFates(t, "a client", b.fates(20, func(i int) pkt {
		return pkt{proto: "udp", src: fmt.Sprintf("10.1.1.1:%d", 1000+i), dst: vip + ":53"}
	}), "drop:14 icmp 3/3:6")
}

// An answer that the host would not give for other reasons takes nothing from others: an
// ICMP error is not answered.
func TestErrorLimitsUnanswerable(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 1)
	// A conversation, and errors about it whose TTL is spent.
	b.send(pkt{proto: "udp", src: "10.1.1.1:1000", dst: vip + ":53"})
	quoted := pkt{proto: "udp", src: vip + ":53", dst: "10.1.1.1:1000"}.frame(t)[14:]
	spent := serialize(t,
		&layers.Ethernet{SrcMAC: clientMAC[:], DstMAC: directorMAC[:], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 1, Protocol: layers.IPProtocolICMPv4, SrcIP: []byte{10, 1, 1, 1}, DstIP: netip.MustParseAddr(vip).AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, 3)},
		gopacket.Payload(quoted))
	for range 100 {
		expect(t, "an error", b.deliver(spent), "drop")
	}
	expectFates(t, "what may be answered", b.fates(7, func(int) pkt {
		return pkt{proto: "udp", src: "10.1.1.1:1000", dst: vip + ":53", ttl: 1}
	}), "drop:1 icmp 11/0:6")
}
