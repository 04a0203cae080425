package director_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
)

// What a real server receives is the packet that came, but for the link
// addresses, the TTL and the IP checksum; tags stay.
func TestForwardsUnchanged(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	for _, p := range []pkt{
		{src: "10.1.1.1:1000", dst: vip + ":80", flags: "S", size: 100},
		{src: "10.1.1.1:1000", dst: vip + ":80", flags: "A", size: 1400, df: true},
		{src: "10.1.1.1:1000", dst: vip + ":80", flags: "PA", size: 7, vlan: 10, ttl: 2},
	} {
		in := p.frame(t)
		r := b.plane.Deliver(dataplane.Frame{Data: in, In: eth0})[0]
		expect(t, "fate", b.fate(r), "r0")
		want := append([]byte(nil), in...)
		mac := serverMAC(0)
		copy(want, mac[:])
		copy(want[6:], directorMAC[:])
		l3 := 14
		if p.vlan != 0 {
			l3 += 4
		}
		want[l3+8]--
		want[l3+10], want[l3+11] = 0, 0
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(want[l3+i:]))
		}
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(want[l3+10:], ^uint16(sum))
		if string(r.Data) != string(want) {
			t.Errorf("%+v:\n got %x\nwant %x", p, r.Data, want)
		}
	}
}

// With a clock that the test moves: honoured at 299 s, forgotten after 300 s,
// and another 60 s while it controls a connection.
func TestPersistenceTimes(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(persistent(tcp(80), "rr", 300*time.Second), 2)
	client := func(port int) pkt {
		return pkt{src: fmt.Sprintf("10.1.1.1:%d", port), dst: vip + ":80", flags: "S"}
	}
	// A connection that is reset at once and gone after ten seconds.
	open := func(port int) string {
		fate := b.send(client(port))
		p := client(port)
		p.flags = "A"
		b.send(p)
		p.flags = "R"
		b.send(p)
		return fate
	}
	expect(t, "first", open(1000), "r1")
	b.move(299 * time.Second)
	expect(t, "at 299 s", open(1001), "r1")
	b.move(300*time.Second - time.Millisecond)
	expect(t, "just before 300 s", open(1002), "r1")
	b.move(300*time.Second + 5*time.Millisecond)
	expect(t, "after 300 s", open(1003), "r0")

	// One that stays: when the template's time is over it gets 60 s more.
	p := client(2000)
	expect(t, "stays", b.send(p), "r0")
	p.flags = "A"
	b.send(p)
	template := func() time.Duration {
		for _, c := range b.conns() {
			if c.Template {
				return c.Expires
			}
		}
		return -1
	}
	b.move(300 * time.Second)
	if got := template(); got != 60*time.Second {
		t.Errorf("at the end of its time it has %v, want 60 s", got)
	}
	expect(t, "while it controls a connection", open(2001), "r0")
	if got := template(); got != 60*time.Second {
		t.Errorf("a connection gave it %v; the kernel keeps the 60 s", got)
	}
}

// PCC, PPC and marks, as an operator sees them; the kernel's answers to the
// whole walk-throughs are replayed in conformance.
func TestPersistenceForms(t *testing.T) {
	t.Run("PCC", func(t *testing.T) {
		b := newBed(t, director.Options{})
		b.service(persistent(tcp(0), "rr", 300*time.Second), 2)
		expect(t, "one client, several ports", b.sends(
			pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"},
			pkt{src: "10.1.1.1:2", dst: vip + ":22", flags: "S"},
			pkt{src: "10.1.1.1:3", dst: vip + ":443", flags: "S"},
			pkt{src: "10.1.1.2:1", dst: vip + ":80", flags: "S"},
			pkt{src: "10.1.1.2:2", dst: vip + ":8080", flags: "S"},
		), "r1 r1 r1 r0 r0")
	})
	t.Run("PPC", func(t *testing.T) {
		b := newBed(t, director.Options{})
		b.service(persistent(tcp(80), "rr", 300*time.Second), 2)
		b.service(persistent(tcp(443), "rr", 300*time.Second), 2)
		expect(t, "each service by itself", b.sends(
			pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"},
			pkt{src: "10.1.1.2:1", dst: vip + ":443", flags: "S"},
			pkt{src: "10.1.1.1:2", dst: vip + ":443", flags: "S"},
			pkt{src: "10.1.1.1:3", dst: vip + ":80", flags: "S"},
		), "r1 r1 r0 r1")
	})
	t.Run("network", func(t *testing.T) {
		b := newBed(t, director.Options{})
		s := persistent(tcp(80), "rr", 300*time.Second)
		s.Persistence.Netmask = netip.MustParseAddr("255.255.255.0")
		b.service(s, 2)
		expect(t, "a network", b.sends(
			pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"},
			pkt{src: "10.1.1.200:1", dst: vip + ":80", flags: "S"},
			pkt{src: "10.1.2.1:1", dst: vip + ":80", flags: "S"},
		), "r1 r1 r0")
	})
	t.Run("mark", func(t *testing.T) {
		b := newBed(t, director.Options{})
		for _, port := range []string{"80", "443"} {
			_, err := b.MarkCommand(false, strings.Fields("-t mangle -A PREROUTING -i eth+ -p tcp --dport "+port+" -d "+vip+" -j MARK --set-mark 10"))
			b.must(err)
		}
		b.service(persistent(ulvs.ServiceKey{Mark: 10}, "rr", 300*time.Second), 2)
		expect(t, "basket and payment", b.sends(
			pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"},
			pkt{src: "10.1.1.2:1", dst: vip + ":443", flags: "S"},
			pkt{src: "10.1.1.1:2", dst: vip + ":443", flags: "S"},
			pkt{src: "10.1.1.2:2", dst: vip + ":80", flags: "S"},
			// No mark: the address is nobody's but the rules name it.
			pkt{src: "10.1.1.2:2", dst: vip + ":22", flags: "S"},
			pkt{proto: "udp", src: "10.1.1.2:2", dst: vip + ":443"},
		), "r1 r0 r1 r0 rst icmp 3/3")
	})
	t.Run("IPv6", func(t *testing.T) {
		b := newBed(t, director.Options{})
		k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(vip6), Port: 80}
		s := persistent(k, "rr", 300*time.Second)
		s.Persistence.Netmask = netip.MustParseAddr("ffff:ffff:ffff:ffff::")
		b.service(s, 2)
		expect(t, "a /64", b.sends(
			pkt{src: "[fd01::1]:1", dst: "[" + vip6 + "]:80", flags: "S"},
			pkt{src: "[fd01::2:3]:1", dst: "[" + vip6 + "]:80", flags: "S"},
			pkt{src: "[fd01:0:0:1::1]:1", dst: "[" + vip6 + "]:80", flags: "S"},
		), "r1 r1 r0")
	})
}

// What becomes of a packet whose service or server cannot take it.
func TestRefusals(t *testing.T) {
	b := newBed(t, director.Options{})
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 0)
	syn := func(port int) pkt { return pkt{src: fmt.Sprintf("10.1.1.1:%d", port), dst: vip + ":80", flags: "S"} }
	ack := func(port int) pkt { p := syn(port); p.flags = "A"; return p }

	expect(t, "no service, the director stands for the address", b.sends(
		pkt{src: "10.1.1.1:1", dst: vip + ":81", flags: "S"},
		pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"},
		pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "R"},
		pkt{proto: "udp", src: "10.1.1.1:1", dst: vip + ":80"},
		pkt{src: "10.1.1.1:1", dst: "192.168.10.77:80", flags: "S"},
	), "rst rst drop icmp 3/3 pass")
	expect(t, "no server", b.send(pkt{proto: "udp", src: "10.1.1.1:1", dst: vip + ":53"}), "icmp 3/3")
	expect(t, "active FTP's port is not scheduled", b.send(pkt{src: "10.1.1.1:20", dst: vip + ":80", flags: "S"}), "rst")
	expect(t, "spent TTL", b.sends(pkt{src: "10.1.1.1:5", dst: vip + ":80", flags: "S", ttl: 1}), "icmp 11/0")
	expect(t, "larger than the way permits", b.sends(
		pkt{src: "10.1.1.1:6", dst: vip + ":80", flags: "S", size: 1461, df: true},
		pkt{src: "10.1.1.1:6", dst: vip + ":80", flags: "A", size: 1460, df: true},
	), "icmp 3/4 r0")

	// A removed server: silence; back: as before; with expire_nodest_conn the
	// packet goes on as if it had no connection.
	expect(t, "two connections", b.sends(syn(101), syn(100)), "r1 r0")
	b.must(b.DeleteDestination(k, netip.MustParseAddrPort(serverAddr(0)+":80")))
	expect(t, "its server is gone", b.sends(ack(100), ack(101), syn(100)), "drop r1 drop")
	b.must(b.AddDestination(k, dest(k, 0, 1)))
	expect(t, "and back", b.sends(ack(100)), "r0")
	b.must(b.SetSysctl("expire_nodest_conn", 1))
	b.must(b.DeleteDestination(k, netip.MustParseAddrPort(serverAddr(0)+":80")))
	expect(t, "expired", b.sends(ack(100), syn(100)), "rst r1")

	// A quiescent server keeps its connections and gets no new ones.
	b.must(b.SetSysctl("expire_nodest_conn", 0))
	b.must(b.EditDestination(k, dest(k, 1, 0)))
	expect(t, "quiescent", b.sends(ack(101), syn(102)), "r1 icmp 3/3")

	if got := b.counter("drop_ttl") + b.counter("drop_too_big"); got != 2 {
		t.Errorf("%d drops for TTL and size, want 2", got)
	}
}

// A template is used although its server is quiescent, unless
// expire_quiescent_template; and forgotten for good when its server was away
// while it was tried.
func TestTemplatesAndServers(t *testing.T) {
	b := newBed(t, director.Options{})
	k := b.service(persistent(tcp(80), "rr", 300*time.Second), 2)
	n := 0
	syn := func() string {
		n++
		return b.send(pkt{src: fmt.Sprintf("10.1.1.1:%d", n), dst: vip + ":80", flags: "S"})
	}
	expect(t, "first", syn(), "r1")
	b.must(b.EditDestination(k, dest(k, 1, 0)))
	expect(t, "quiescent", syn(), "r1")
	b.must(b.SetSysctl("expire_quiescent_template", 1))
	expect(t, "quiescent, with expire_quiescent_template", syn(), "r0")
	b.must(b.EditDestination(k, dest(k, 1, 1)))
	expect(t, "the old template stays invalid", syn(), "r0")

	b.must(b.DeleteDestination(k, netip.MustParseAddrPort(serverAddr(0)+":80")))
	expect(t, "gone", syn(), "r1")
	b.must(b.AddDestination(k, dest(k, 0, 1)))
	expect(t, "back", syn(), "r1")
	var invalid int
	for _, c := range b.conns() {
		if c.Template && c.Virtual.Port() == 65535 && c.Dest.Port() == 65535 {
			invalid++
		}
	}
	if invalid != 2 {
		t.Errorf("%d invalid templates are listed, want 2", invalid)
	}
}

// conn_reuse_mode: a SYN on a closed connection is scheduled anew, unless a
// template controls it.
func TestConnReuse(t *testing.T) {
	for _, tt := range []struct {
		mode    int
		flags   []string
		service ulvs.Service
		want    string
	}{
		{1, []string{"S", "A", "R", "S"}, ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, "r1 r1 r1 r0"},
		{1, []string{"S", "A", "FA", "S"}, ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, "r1 r1 r1 r1"},
		{2, []string{"S", "A", "FA", "S"}, ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, "r1 r1 r1 r0"},
		{0, []string{"S", "A", "R", "S"}, ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, "r1 r1 r1 r1"},
		{1, []string{"S", "A", "R", "S"}, persistent(tcp(80), "rr", time.Minute), "r1 r1 r1 r1"},
	} {
		b := newBed(t, director.Options{})
		b.service(tt.service, 2)
		b.must(b.SetSysctl("conn_reuse_mode", tt.mode))
		var list []pkt
		for _, f := range tt.flags {
			list = append(list, pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: f})
		}
		expect(t, fmt.Sprint(tt.mode, tt.flags), b.sends(list...), tt.want)
	}
}

// A server that is being resolved: its packets wait and are sent in order.
func TestParked(t *testing.T) {
	b := newBed(t, director.Options{})
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 0)
	new := netip.MustParseAddr("192.168.10.203")
	b.resolver.Set(new, dataplane.Neighbor{State: dataplane.HopResolving, Ifindex: eth0, MTU: 1500})
	b.must(b.AddDestination(k, dest(k, 3, 1)))
	for i := range 3 {
		expect(t, "unresolved", b.send(pkt{src: fmt.Sprintf("10.1.1.1:%d", 100+i), dst: vip + ":80", flags: "S"}), "parked")
	}
	if b.resolver.Wants(new) == 0 {
		t.Error("nobody asked for it to be resolved")
	}
	b.resolver.Set(new, dataplane.Neighbor{State: dataplane.HopReachable, Ifindex: eth0, MTU: 1500, Dst: serverMAC(3), Src: directorMAC})
	sent := b.plane.Sent()
	if len(sent) != 3 {
		t.Fatalf("%d were sent", len(sent))
	}
	for i, r := range sent {
		if port := binary.BigEndian.Uint16(r.Data[34:]); b.fate(r) != "r3" || int(port) != 100+i {
			t.Errorf("packet %d: port %d to %s", i, port, b.fate(r))
		}
	}
	b.resolver.Set(new, dataplane.Neighbor{State: dataplane.HopUnreachable})
	expect(t, "no route", b.send(pkt{src: "10.1.1.1:100", dst: vip + ":80", flags: "A"}), "icmp 3/1")
}

// Tables that are full of clients who have answered drop, count, and go on when there is
// room.
func TestFull(t *testing.T) {
	b := newBed(t, director.Options{Connections: 10, Templates: 5})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	b.service(persistent(tcp(443), "rr", time.Hour), 2)
	establish := func(src, dst string) (fate string) {
		fate = b.send(pkt{src: src, dst: dst, flags: "S"})
		if fate != "drop" {
			b.send(pkt{src: src, dst: dst, flags: "A"})
		}
		return fate
	}
	for i := range 12 {
		fate := establish(fmt.Sprintf("10.1.1.1:%d", 100+i), vip+":80")
		if (fate == "drop") != (i >= 10) {
			t.Errorf("connection %d: %s", i, fate)
		}
	}
	if got := b.counter("drop_connections_full"); got != 2 {
		t.Errorf("%d counted", got)
	}
	b.move(901 * time.Second)
	for i := range 7 {
		fate := establish(fmt.Sprintf("10.1.2.%d:1", i), vip+":443")
		if (fate == "drop") != (i >= 5) {
			t.Errorf("client %d: %s", i, fate)
		}
	}
	if got := b.counter("drop_templates_full"); got != 2 {
		t.Errorf("%d counted", got)
	}
	b.move(901 * time.Second) // the connections end, the templates control nothing
	expect(t, "a new client", b.send(pkt{src: "10.1.3.1:1", dst: vip + ":443", flags: "S"})[:1], "r")
	if got := b.counter("templates_evicted"); got != 1 {
		t.Errorf("%d evicted", got)
	}
}

// Damaged packets are counted and the host's.
func TestDamaged(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	whole := pkt{src: "10.1.1.1:1000", dst: vip + ":80", flags: "S"}.frame(t)
	const headers = 14 + 20 + 20
	for n := range headers {
		b.deliver(whole[:n:n])
	}
	if got := b.counter("damaged"); got != headers {
		t.Errorf("%d of %d were counted", got, headers)
	}
	if got := b.counter("connections"); got != 0 {
		t.Errorf("they made %d connections", got)
	}
}
