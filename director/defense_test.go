package director_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
)

// drop_packet=3 takes one new connection of am_droprate, and none of those
// that there are.
func TestDropPacket(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	b.must(b.SetSysctl("am_droprate", 5))
	b.must(b.SetSysctl("drop_packet", 3))
	dropped := 0
	for i := range 100 {
		p := pkt{src: fmt.Sprintf("10.1.1.1:%d", 1000+i), dst: vip + ":80", flags: "S"}
		if b.send(p) == "drop" {
			dropped++
			continue
		}
		p.flags = "A"
		for range 5 {
			if fate := b.send(p); fate[0] != 'r' {
				t.Fatalf("an established connection's packet: %s", fate)
			}
		}
	}
	if dropped < 19 || dropped > 21 || b.counter("drop_defense") != uint64(dropped) {
		t.Errorf("%d of 100 dropped, %d counted; want 20", dropped, b.counter("drop_defense"))
	}
	b.must(b.SetSysctl("drop_packet", 0))
	for i := range 20 {
		expect(t, "switched off", b.send(pkt{src: fmt.Sprintf("10.1.2.1:%d", 1000+i), dst: vip + ":80", flags: "S"})[:1], "r")
	}
}

// drop_entry=3 sheds connections that are not open yet, and templates that gave
// none that was; within a minute hardly any is left, while established
// connections that are used stay.
func TestDropEntry(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(persistent(tcp(80), "rr", time.Hour), 2)
	for i := range 300 {
		b.send(pkt{src: fmt.Sprintf("10.1.%d.%d:1000", i/200, i%200+1), dst: vip + ":80", flags: "S"})
	}
	for i := range 50 {
		p := pkt{src: fmt.Sprintf("10.2.1.%d:1000", i+1), dst: vip + ":80", flags: "S"}
		b.send(p)
		p.flags = "A"
		for range 10 {
			b.send(p)
		}
	}
	b.must(b.SetSysctl("drop_entry", 3))
	for range 59 {
		b.move(time.Second)
	}
	embryonic, established, idle, assured := 0, 0, 0, 0
	for _, c := range b.conns() {
		switch {
		case c.Template && c.State == "ASSURED":
			assured++
		case c.Template:
			idle++
		case c.State == "ESTABLISHED":
			established++
		default:
			embryonic++
		}
	}
	// A thirty-second part a second, for 59 seconds: e^(-59/32) are left, 16 %.
	if embryonic > 100 || embryonic < 10 || established != 50 || assured != 50 || idle > 110 {
		t.Errorf("%d embryonic, %d established, %d templates without and %d with an established connection", embryonic, established, idle, assured)
	}
	if b.counter("shed") == 0 {
		t.Error("nothing was counted")
	}
}

// secure_tcp=3 has new connections wait in SYNACK; modes 1 and 2 follow the
// memory, of which this machine has enough.
func TestSecureTCP(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	state := func(port int) string {
		b.send(pkt{src: fmt.Sprintf("10.1.1.1:%d", port), dst: vip + ":80", flags: "S"})
		for _, c := range b.conns() {
			if int(c.Client.Port()) == port {
				return c.State
			}
		}
		return "none"
	}
	expect(t, "off", state(1), "SYN_RECV")
	b.must(b.SetSysctl("secure_tcp", 3))
	expect(t, "on", state(2), "SYNACK")
	b.must(b.SetSysctl("secure_tcp", 2))
	expect(t, "with memory enough", state(3), "SYN_RECV")
	if mode, err := b.Sysctl("secure_tcp"); err != nil || mode != 1 {
		t.Errorf("mode %d %v, want 1", mode, err)
	}
}

// schedule_icmp: an error about a connection that is not there opens it.
func TestScheduleICMP(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	answer := pkt{src: vip + ":80", dst: "10.1.1.1:1000", flags: "A"}
	expect(t, "off", b.deliver(icmpError(t, answer, false)), "pass")
	b.must(b.SetSysctl("schedule_icmp", 1))
	expect(t, "on", b.deliver(icmpError(t, answer, false)), "r1")
	expect(t, "its connection", b.send(pkt{src: "10.1.1.1:1000", dst: vip + ":80", flags: "A"}), "r1")
}

// The sip engine keeps each call on one server, whatever ports its packets come
// from, and drops what is no call.
func TestSIP(t *testing.T) {
	b := newBed(t, director.Options{})
	s := persistent(udp(5060), "rr", time.Minute)
	s.Persistence.Engine = "sip"
	s.OnePacket = true
	b.service(s, 2)
	call := func(port int, id string) string {
		p := pkt{proto: "udp", src: fmt.Sprintf("10.1.1.1:%d", port), dst: vip + ":5060", payload: "INVITE sip:x SIP/2.0\r\nCall-ID: " + id + "\r\n\r\n"}
		return b.send(p)
	}
	got := call(1, "a") + call(2, "b") + call(3, "a") + call(4, "b") + call(5, "c") + call(1, "b")
	expect(t, "two calls and a third", got, "r1r0r1r0r1r0")
	expect(t, "no call", b.send(pkt{proto: "udp", src: "10.1.1.1:1", dst: vip + ":5060", payload: "hello\r\n"}), "drop")
	var data []string
	for _, c := range b.conns() {
		data = append(data, fmt.Sprint(c.Client, c.Virtual, c.Engine, c.EngineData))
	}
	slices.Sort(data)
	expect(t, "templates", fmt.Sprint(data), "[10.1.1.1:0 192.168.10.101:5060sipa 10.1.1.1:0 192.168.10.101:5060sipb 10.1.1.1:0 192.168.10.101:5060sipc]")
}
