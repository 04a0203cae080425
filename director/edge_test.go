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

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/packet"
)

// Ten thousand timers that run out in one tick are more than one look at the
// wheel takes; connections that were used meanwhile live on.
func TestWheelLag(t *testing.T) {
	const n = 10000
	b := newBed(t, director.Options{Connections: 20000})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	p := func(i int, fl string) pkt {
		return pkt{src: fmt.Sprintf("10.1.%d.%d:1000", i>>8, i&255), dst: vip + ":80", flags: fl}
	}
	for i := range n {
		b.send(p(i, "S"))
		b.send(p(i, "A"))
	}
	for range 2 {
		b.move(400 * time.Second)
		for i := range n {
			b.send(p(i, "A"))
		}
	}
	// 900 s after the start the lazy timers of all fire in one tick; no
	// connection has been idle for more than 100 s.
	b.plane.Advance(100*time.Second + 8*time.Millisecond)
	lost := 0
	for i := n - 1; i >= 0; i-- {
		if f := b.send(p(i, "A")); f != "r0" && f != "r1" {
			lost++
		}
	}
	// and the next packet of each
	for i := range n {
		if f := b.send(p(i, "A")); f != "r0" && f != "r1" {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d packets of established connections lost", lost)
	}
}

// Fragments follow their first where no connection is made, too.
func TestOnePacketFragments(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr", OnePacket: true}, 2)
	got := b.sends(
		pkt{proto: "udp", src: "10.1.1.1:1", dst: vip + ":53", size: 1000, fragID: 1, moreFragments: true},
		pkt{proto: "udp", src: "10.1.1.1:0", dst: vip + ":53", size: 100, fragID: 1, fragOffset: 126})
	expect(t, "one-packet datagram of two fragments", got, "r1 r1")
	if n := b.counter("fragments"); n != 2 {
		t.Errorf("%d fragments were counted", n)
	}
}

// A real server of the other family is for tunnels only (ip_vs_genl_set_cmd).
func TestMixedFamily(t *testing.T) {
	b := newBed(t, director.Options{})
	b.must(b.AddService(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}))
	err := b.AddDestination(tcp(80), ulvs.Destination{Addr: netip.MustParseAddr(serverAddr6(0)), Port: 80, Weight: 1})
	if !errors.Is(err, ulvs.ErrInvalid) {
		t.Errorf("IPv6 server in an IPv4 service by direct routing: %v, kernel EINVAL; SYN goes %s", err, b.send(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}))
	}
}

// Addresses and masks that the kernel refuses.
func TestBadAddresses(t *testing.T) {
	b := newBed(t, director.Options{})
	b.must(b.AddService(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}))
	b.resolver.SetBroadcast(netip.MustParseAddr("192.168.10.255"))
	b.resolver.SetLocal(netip.MustParseAddr("fe80::100"), true)
	for _, a := range []string{"0.0.0.0", "255.255.255.255", "192.168.10.255", "224.0.0.1", "239.1.1.1"} {
		err := b.AddDestination(tcp(80), ulvs.Destination{Addr: netip.MustParseAddr(a), Port: 80})
		if !errors.Is(err, ulvs.ErrInvalid) || !strings.Contains(err.Error(), a) {
			t.Errorf("real server %s: %v", a, err)
		}
	}
	for _, a := range []string{"0.1.2.3", "240.1.1.1", "255.255.255.254", "192.168.11.255"} {
		b.must(b.AddDestination(tcp(80), ulvs.Destination{Addr: netip.MustParseAddr(a), Port: 80}))
	}
	six := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(vip6), Port: 443}
	b.must(b.AddService(ulvs.Service{ServiceKey: six}))
	for _, a := range []string{"::", "ff02::1", "fe80::1234", "::ffff:192.168.10.200"} {
		if err := b.AddDestination(six, ulvs.Destination{Addr: netip.MustParseAddr(a), Port: 443}); !errors.Is(err, ulvs.ErrInvalid) {
			t.Errorf("real server %s: %v", a, err)
		}
	}
	for _, a := range []string{"::1", "fe80::100", "::192.168.10.200", "fec0::1"} {
		b.must(b.AddDestination(six, ulvs.Destination{Addr: netip.MustParseAddr(a), Port: 443}))
	}
	s := ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(vip6), Port: 80}}
	s.Persistence = ulvs.Persistence{Timeout: time.Minute, Netmask: netip.MustParseAddr("::")}
	if err := b.AddService(s); err == nil {
		t.Error("IPv6 netmask of length 0 is accepted; kernel EINVAL (plen < 1)")
	}
	s.Port, s.Persistence.Netmask = 81, netip.MustParseAddr("ffff::ffff")
	if err := b.AddService(s); err == nil {
		t.Error("IPv6 netmask that is no prefix is accepted")
	}
}

// A goroutine's answers stay as they are, however many others answer before its
// plane has sent them.
func TestAnswersLast(t *testing.T) {
	b := newBed(t, director.Options{})
	b.must(b.AddService(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}))
	syn := func(i int) []byte {
		return pkt{src: fmt.Sprintf("10.1.1.%d:1000", i), dst: vip + ":80", flags: "S"}.frame(t)
	}
	a := []dataplane.Frame{{Data: syn(1), In: eth0}}
	b.Handle(b.plane.Now(), a) // goroutine A: now held up in its sender
	was := bytes.Clone(a[0].Data)
	for range 16 { // goroutine B: 16 batches
		var batch []dataplane.Frame
		for range 64 {
			batch = append(batch, dataplane.Frame{Data: syn(2), In: eth0})
		}
		b.Handle(b.plane.Now(), batch)
	}
	if !bytes.Equal(was, a[0].Data) {
		t.Errorf("answer to 10.1.1.1 became one to %v", netip.AddrFrom4([4]byte(a[0].Data[30:34])))
	}
}

// A connection keeps the forwarding method that its server had
// (ip_vs_bind_dest).
func TestForwardMethod(t *testing.T) {
	b := newBed(t, director.Options{})
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	expect(t, "open", b.sends(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}, pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"}), "r0 r0")
	d := dest(k, 0, 1)
	d.Forward = ulvs.Tunnel
	b.must(b.EditDestination(k, d))
	expect(t, "old connection after -e -i", b.send(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"}), "r0")
}

// The connection that is over still counts while its successor is scheduled
// (ip_vs_conn_expire_now only sets its timer).
func TestReuseCounts(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "wlc"}, 2)
	open := func(c int) string {
		p := func(fl string) pkt { return pkt{src: fmt.Sprintf("10.1.1.%d:1", c), dst: vip + ":80", flags: fl} }
		return b.sends(p("S"), p("A"), p("R"))
	}
	expect(t, "c1", open(1), "r1 r1 r1")
	expect(t, "c2", open(2), "r0 r0 r0")
	expect(t, "c2 again: kernel still counts the old one", b.send(pkt{src: "10.1.1.2:1", dst: vip + ":80", flags: "S"}), "r1")
}

// The same, seen by a threshold.
func TestReuseThreshold(t *testing.T) {
	b := newBed(t, director.Options{})
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	d := dest(k, 0, 1)
	d.UpperThreshold = 1
	b.must(b.EditDestination(k, d))
	p := func(fl string) pkt { return pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: fl} }
	expect(t, "open", b.sends(p("S"), p("A"), p("R")), "r0 r0 r0")
	expect(t, "reuse", b.send(p("S")), "icmp 3/3")
}

// A datagram counts at its server for a moment, which may overload it.
func TestOnePacketThreshold(t *testing.T) {
	b := newBed(t, director.Options{})
	k := ulvs.ServiceKey{Mark: 5}
	_, err := b.MarkCommand(false, []string{"-t", "mangle", "-A", "PREROUTING", "-d", vip, "-j", "MARK", "--set-mark", "5"})
	b.must(err)
	b.must(b.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr", OnePacket: true}))
	for i := range 2 {
		d := dest(k, i, 1)
		if i == 1 {
			d.UpperThreshold = 4
		}
		b.must(b.AddDestination(k, d))
	}
	got := ""
	for i := 1; i <= 6; i++ { // three to each
		got += b.send(pkt{src: fmt.Sprintf("10.1.1.%d:1", i), dst: vip + ":80", flags: "S"}) + " "
	}
	got += b.send(pkt{proto: "udp", src: "10.1.1.9:1", dst: vip + ":80"}) + " " // r1: fourth, for a moment
	got += b.send(pkt{proto: "udp", src: "10.1.1.9:1", dst: vip + ":80"}) + " "
	got += b.send(pkt{proto: "udp", src: "10.1.1.9:1", dst: vip + ":80"})
	expect(t, "kernel: 3*4 < 4*3 is false, so the datagram leaves r1 overloaded", got, "r1 r0 r1 r0 r1 r0 r1 r0 r0")
}

// Another flag does not start the scheduler anew.
func TestEditFlags(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	expect(t, "first", b.send(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}), "r1")
	b.must(b.EditService(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr", SchedFlags: 1}))
	expect(t, "after -E -b flag-1", b.send(pkt{src: "10.1.1.1:2", dst: vip + ":80", flags: "S"}), "r0")
}

// A service that is deleted is gone, whatever the plane says of it.
func TestDeleteWithoutClaim(t *testing.T) {
	var log bytes.Buffer
	b := newBed(t, director.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	b.plane.FailClaims(errors.New("no"))
	if err := b.DeleteService(tcp(80)); err != nil {
		if _, err := b.Service(tcp(80)); err != nil {
			t.Errorf("delete failed, but the service is gone: %v", err)
		}
	}
	if !strings.Contains(log.String(), `msg="services are gone, but the host is still kept from their packets" err=`) {
		t.Errorf("logged %s", &log)
	}
}

// An SCTP header alone is dropped (sctp_conn_schedule).
func TestSCTPWithoutChunk(t *testing.T) {
	b := newBed(t, director.Options{})
	k := ulvs.ServiceKey{Protocol: ulvs.SCTP, Addr: netip.MustParseAddr(vip), Port: 80}
	b.service(ulvs.Service{ServiceKey: k, Scheduler: "rr"}, 1)
	expect(t, "SCTP header without a chunk", b.send(pkt{proto: "sctp", src: "10.1.1.1:1", dst: vip + ":80"}), "drop")
}

// What the kernel merged is measured by its segments, whose headers are in the
// packet: the offload's own length of them is a hint that many drivers overstate.
func TestGROHeaders(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	b.send(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"})
	f := pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A", size: 2800, df: true}.frame(t)
	// virtio_net_hdr_from_skb: hdr_len is skb_headlen, a hint, not the headers' length.
	r := b.plane.Deliver(dataplane.Frame{Data: f, In: eth0, Offload: dataplane.Offload{GSOType: 1, GSOSize: 1400, HdrLen: 256}})[0]
	expect(t, "GSO of 1400 with 256 linear bytes", b.fate(r), "r0")
}

// With expire_nodest_conn a removed server's connections end with it, though it
// comes back in the next moment.
func TestNoDestAtOnce(t *testing.T) {
	b := newBed(t, director.Options{})
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	b.must(b.SetSysctl("expire_nodest_conn", 1))
	b.send(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"})
	b.must(b.DeleteDestination(k, netip.AddrPortFrom(netip.MustParseAddr(serverAddr(0)), 80)))
	b.plane.Advance(40 * time.Millisecond)
	b.must(b.AddDestination(k, dest(k, 0, 1)))
	b.Tick(b.plane.Now())
	if n := len(b.conns()); n != 0 {
		t.Errorf("%d connections survive; the kernel flushed them after one jiffy", n)
	}
}

// A service on port 21 without persistence leaves the other ports to the host.
func TestFTPLeavesHostPorts(t *testing.T) {
	b := newBed(t, director.Options{})
	b.plane.SetWithholds(true)
	b.resolver.SetLocal(netip.MustParseAddr(vip), true)
	b.service(ulvs.Service{ServiceKey: tcp(21), Scheduler: "rr"}, 1)
	c, _ := b.plane.Claims()
	t.Logf("claimed: %+v", c.Services)
	expect(t, "host's own listener on 8080, its established connection, reply to the host's own client", b.sends(
		pkt{src: "10.1.1.1:1", dst: vip + ":8080", flags: "S"},
		pkt{src: "10.1.1.1:1", dst: vip + ":8080", flags: "A"},
		pkt{src: "10.1.1.1:443", dst: vip + ":50000", flags: "A"}), "pass pass pass")
}

// Timeouts are whole seconds.
func TestTinyTimeout(t *testing.T) {
	b := newBed(t, director.Options{})
	if err := b.SetTimeouts(ulvs.Timeouts{UDP: time.Millisecond}); err == nil {
		got, _ := b.Timeouts()
		t.Errorf("timeout of 1 ms taken: now %+v", got)
	}
}

// Persistent FTP has the ports of its data connections: they are forwarded, and
// the host is kept from them.
func TestFTPData(t *testing.T) {
	b := newBed(t, director.Options{})
	b.plane.SetWithholds(true)
	b.resolver.SetLocal(netip.MustParseAddr(vip), true)
	b.service(persistent(tcp(21), "rr", time.Minute), 2)
	expect(t, "control, passive data, stray", b.sends(
		pkt{src: "10.1.1.1:1", dst: vip + ":21", flags: "S"},
		pkt{src: "10.1.1.1:2", dst: vip + ":40000", flags: "S"},
		pkt{src: "10.1.1.1:3", dst: vip + ":40000", flags: "A"},
		pkt{src: "10.1.1.1:4", dst: vip + ":80", flags: "S"},
	), "r1 r1 rst pass")
	c, _ := b.plane.Claims()
	want := fmt.Sprint([]dataplane.Claim{
		{Addr: netip.MustParseAddr(vip), Proto: 6, Port: 21, Service: 1},
		{Addr: netip.MustParseAddr(vip), Proto: 6, Port: 20, Last: 20, Service: 1},
		{Addr: netip.MustParseAddr(vip), Proto: 6, Port: 1024, Last: 65535, Service: 1},
	})
	expect(t, "claims", fmt.Sprint(c.Services), want)
}

// A real server that does not answer: what waited for it is answered with host
// unreachable when it is given up (arp_error_report).
func TestDeadNeighbour(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	server := netip.MustParseAddr(serverAddr(0))
	b.resolver.Set(server, dataplane.Neighbor{State: dataplane.HopResolving, Ifindex: eth0, MTU: 1500})
	for i := range 3 {
		expect(t, "unresolved", b.send(pkt{src: fmt.Sprintf("10.1.1.1:%d", i+1), dst: vip + ":80", flags: "S"}), "parked")
	}
	b.resolver.Set(server, dataplane.Neighbor{State: dataplane.HopUnreachable, Ifindex: eth0, MTU: 1500})
	sent := b.plane.Sent()
	if len(sent) != 3 || b.counter("parked_lost") != 3 {
		t.Fatalf("%d answers, %d counted", len(sent), b.counter("parked_lost"))
	}
	for _, r := range sent {
		expect(t, "given up", b.fate(r), "icmp 3/1")
	}
}

// Sources that no packet from the wire has are not scheduled.
func TestMartianSource(t *testing.T) {
	b := newBed(t, director.Options{})
	b.resolver.SetLocal(netip.MustParseAddr(vip), true)
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	for _, src := range []string{"127.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255", "0.0.0.0", vip} {
		expect(t, src, b.send(pkt{src: src + ":1", dst: vip + ":80", flags: "S"}), "pass")
	}
	for _, src := range []string{"0.0.0.1", "240.10.0.5", "255.255.255.254", "223.255.255.255"} {
		expect(t, src, b.send(pkt{src: src + ":1", dst: vip + ":80", flags: "S"}), "r0")
	}
}

// What is too large for the way to its server, and may be cut, is.
func TestOverMTU(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 1)
	server := netip.MustParseAddr(serverAddr(0))
	b.resolver.Set(server, dataplane.Neighbor{State: dataplane.HopReachable, Ifindex: eth0, MTU: 576, Dst: serverMAC(0), Src: directorMAC})
	b.plane.Sent()
	if got := b.send(pkt{proto: "udp", src: "10.1.1.1:1000", dst: vip + ":53", size: 1400}); got != "drop" {
		t.Errorf("itself: %s", got)
	}
	var body []byte
	sent := b.plane.Sent()
	for i, r := range sent {
		var p packet.Packet
		p.Parse(r.Data)
		if b.fate(r) != "r0" || p.End-p.L3 > 576 || p.TTL != 63 || p.MoreFragments != (i < len(sent)-1) || int(p.FragOffset) != len(body) {
			t.Errorf("piece %d: %s, %d bytes at %d, ttl %d, more %v", i, b.fate(r), p.End-p.L3, p.FragOffset, p.TTL, p.MoreFragments)
		}
		body = append(body, r.Data[p.L3+20:p.End]...)
	}
	if len(sent) != 3 || len(body) != 8+1400 {
		t.Errorf("%d pieces of together %d bytes", len(sent), len(body))
	}
	expect(t, "with DF", b.sends(pkt{proto: "udp", src: "10.1.1.1:1000", dst: vip + ":53", size: 1400, df: true}), "icmp 3/4")
}
