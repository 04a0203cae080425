package xdp

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/packet"
)

// sharing is a pair whose director is asked who has opened connections.
type sharing struct {
	*pair
	port uint16 // of the next client
}

func newSharing(t *testing.T) *sharing { return &sharing{newPair(t, 1), 1024} }

func tcpAt(port uint16) ulvs.ServiceKey {
	return ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: port}
}

// add adds a service with two real servers.
func (w *sharing) add(s ulvs.Service) {
	w.t.Helper()
	w.both("add a service", func(c ulvs.Control) error { return c.AddService(s) })
	for i := range 2 {
		d := ulvs.Destination{Addr: pairServer(false, i), Port: s.Port, Weight: 1}
		w.both("add a real server", func(c ulvs.Control) error { return c.AddDestination(s.ServiceKey, d) })
	}
}

func (w *sharing) sysctl(name string, n int) {
	w.t.Helper()
	w.both(fmt.Sprint(name, "=", n), func(c ulvs.Control) error { return c.SetSysctl(name, n) })
}

func (w *sharing) rules(words ...string) {
	w.t.Helper()
	for _, r := range words {
		for _, d := range []*director.Director{w.fast, w.plain} {
			_, err := d.MarkCommand(false, strings.Fields("-t mangle "+r))
			w.must(err)
		}
	}
}

// syn is a SYN of another client each time.
func (w *sharing) syn(to uint16, from ...byte) []byte {
	w.port++
	s := shape{proto: layers.IPProtocolTCP, flags: "S", port: w.port, to: to}
	copy(s.from[:], from)
	return s.frame(w.t)
}

// inGo is how many connections Go has opened, by cause, as far as there are some.
func (w *sharing) inGo() map[string]uint64 {
	w.t.Helper()
	all, err := w.fast.Counters()
	w.must(err)
	sum := uint64(0)
	maps.DeleteFunc(all, func(name string, n uint64) bool {
		cause := strings.HasPrefix(name, "opened_in_go_")
		if cause {
			sum += n
		}
		return n == 0 || !cause && name != "opened_in_go"
	})
	if all["opened_in_go"] != sum {
		w.t.Errorf("the causes do not add up: %v", all)
	}
	delete(all, "opened_in_go")
	return all
}

// opened is who has opened a service's connections.
func (w *sharing) opened(k ulvs.ServiceKey) ulvs.Opened {
	w.t.Helper()
	s, err := w.fast.Service(k)
	w.must(err)
	return s.Opened
}

// wants checks that f has Go open one connection, by that cause alone, or with none the program.
func (w *sharing) wants(cause string, f func()) {
	w.t.Helper()
	before, opened := w.inGo(), w.openedNow()
	f()
	now := w.inGo()
	maps.DeleteFunc(now, func(name string, n uint64) bool { return n == before[name] })
	want := []string{"opened_in_go_" + cause}
	if cause == "" {
		want = nil
	}
	if got := slices.Collect(maps.Keys(now)); !slices.Equal(got, want) {
		w.t.Errorf("Go opened connections because of %q, want %q", got, want)
	} else if cause != "" && now[want[0]] != before[want[0]]+1 {
		w.t.Errorf("Go opened %d connections because of %s", now[want[0]]-before[want[0]], cause)
	}
	if n := w.openedNow() - opened; (n == 1) != (cause == "") {
		w.t.Errorf("%s: the program opened %d", cause, n)
	}
}

// wantsNone checks that f has nobody open a connection.
func (w *sharing) wantsNone(f func()) {
	w.t.Helper()
	before, opened := w.inGo(), w.openedNow()
	if f(); !maps.Equal(w.inGo(), before) || w.openedNow() != opened {
		w.t.Errorf("a connection was opened: %v and %d, before %v and %d", w.inGo(), w.openedNow(), before, opened)
	}
}

// Each connection that Go opens where the program opens others is counted by its cause, and each
// service says who has opened its connections.
func TestSharesByCause(t *testing.T) {
	w := newSharing(t)
	w.add(ulvs.Service{ServiceKey: tcpAt(80), Scheduler: "rr"})
	w.add(ulvs.Service{ServiceKey: tcpAt(81), Scheduler: "lblc"})
	w.add(ulvs.Service{ServiceKey: tcpAt(21), Scheduler: "rr"})
	w.add(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 10}, Scheduler: "rr"})
	w.rules("-A PREROUTING -d 192.168.10.101 -p tcp --dport 4000 -j MARK --set-mark 10",
		"-A PREROUTING -d 192.168.10.101 -p tcp --dport 4001 --syn -j MARK --set-mark 10",
		"-A PREROUTING -d 192.168.10.101 -p tcp --dport 80 --tcp-flags URG URG -j MARK --set-mark 10")
	syn := func(to uint16, from ...byte) func() { return func() { w.send(w.syn(to, from...)) } }
	w.wants("service", syn(81))
	w.wants("", syn(21))
	w.wants("", syn(4000))
	w.wants("mark", syn(4001))
	w.wants("mark", syn(80)) // it has none, which nobody knows before its flags are looked at
	w.rules("-D PREROUTING 3")
	w.wants("", syn(80))
	if want := (ulvs.Opened{ByPlane: 1, InGo: 1}); w.opened(tcpAt(80)) != want ||
		w.opened(ulvs.ServiceKey{Mark: 10}) != want {
		t.Errorf("of port 80 %+v, and by the mark %+v", w.opened(tcpAt(80)), w.opened(ulvs.ServiceKey{Mark: 10}))
	}

	again := w.syn(80)
	w.wants("", func() { w.send(again) })
	w.sysctl("conn_reuse_mode", 1)
	w.send(withFlags(again, packet.FIN))
	w.wants("reused", func() { w.send(again) })

	w.sysctl("secure_tcp", 3)
	w.wants("defense", syn(80))
	w.sysctl("secure_tcp", 0)
	w.sysctl("drop_packet", 3)
	w.wantsNone(syn(80)) // one of ten
	w.wants("defense", syn(80))
	w.sysctl("drop_packet", 0)

	w.sysctl("sloppy_tcp", 1)
	w.wants("", func() { w.send(withFlags(w.syn(80), packet.ACK)) })
	w.sysctl("sloppy_tcp", 0)

	w.wants("source", syn(80, near(netip.MustParseAddr("10.0.0.3"))...))

	w.sysctl("schedule_icmp", 1)
	w.wants("icmp", func() { w.alike(w.quoting(81)) })
	w.wants("fragment", func() { w.alike(firstFragment(w.syn(81))) })

	w.add(ulvs.Service{ServiceKey: tcpAt(82), Scheduler: "wlc"})
	for i := range 2 {
		d := ulvs.Destination{Addr: pairServer(false, i), Port: 82, Weight: 1, UpperThreshold: 2}
		w.both("a threshold", func(c ulvs.Control) error { return c.EditDestination(tcpAt(82), d) })
	}
	w.wants("", syn(82))
	w.wants("", syn(82))
	w.wants("limit", syn(82))

	for i := range 2 {
		w.resolver.Set(pairServer(false, i), dataplane.Neighbor{})
	}
	w.move(time.Second)
	w.wants("hop", syn(80))
	for i := range 2 {
		w.resolver.SetReachable(pairServer(false, i), 1, dataplane.MAC{2, 0, 0, 0, 10, byte(200 + i)})
	}
	w.move(time.Second)
	w.wants("", syn(80))

	w.move(3 * time.Second) // the estimator's next round
	w.compare()
	list, err := w.fast.Services()
	w.must(err)
	for _, s := range list {
		if s.Opened.ByPlane+s.Opened.InGo != s.Stats.Conns {
			t.Errorf("%v: %+v of %d connections", s.ServiceKey, s.Opened, s.Stats.Conns)
		}
	}

	// Nearly all the room that there is, and nobody to make some.
	many := w.syn(80)
	for i := range 31 << 10 {
		from(many, netip.AddrFrom4([4]byte{30, 1, byte(i >> 8), byte(i)}))
		w.handled(w.fast, [][]byte{many, withFlags(many, packet.ACK)})
	}
	w.wants("full", func() {
		if f := w.syn(80); w.run(f) == program.ActionPass {
			w.handled(w.fast, [][]byte{f})
		}
	})
}

// alike has both directors decide about a packet that the program passes.
func (w *sharing) alike(frame []byte) {
	w.t.Helper()
	action := w.run(frame)
	if got, want := w.fate(w.fast, frame), w.fate(w.plain, frame); action != program.ActionPass || got != want {
		w.fail("action %d, %s, want %s", action, got, want)
	}
}

// run gives a frame to the program alone.
func (w *sharing) run(frame []byte) (action uint32) {
	w.t.Helper()
	action, _, err := runByHand(w.still.prog, frame)
	w.must(err)
	return action
}

// firstFragment makes of a frame the first of several.
func firstFragment(frame []byte) []byte {
	frame[20] |= 0x20
	frame[24], frame[25] = 0, 0
	sum := packet.Checksum(frame[14:34])
	frame[24], frame[25] = byte(sum>>8), byte(sum)
	return frame
}

// quoting is an ICMP error about what a server has sent to a client that has no connection.
func (w *sharing) quoting(port uint16) []byte {
	w.port++
	client, vip := []byte{10, 1, 1, 1}, pairVIP(false).AsSlice()
	tcp := &layers.TCP{SrcPort: layers.TCPPort(port), DstPort: layers.TCPPort(w.port), ACK: true}
	sent := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: vip, DstIP: client}
	w.must(tcp.SetNetworkLayerForChecksum(sent))
	serialize := func(list ...gopacket.SerializableLayer) []byte {
		buf := gopacket.NewSerializeBuffer()
		w.must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...))
		return buf.Bytes()
	}
	return serialize(
		&layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 7}, DstMAC: own[:], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: client, DstIP: vip},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeHost)},
		gopacket.Payload(serialize(sent, tcp)))
}

// near returns another address that the program takes for a local one.
func near(local netip.Addr) []byte {
	bit := func(a netip.Addr) uint32 {
		fold := dataplane.Fold(a)
		return fold * dataplane.LocalFactor >> dataplane.LocalShift
	}
	for n := uint32(20 << 24); n < math.MaxUint32; n++ {
		a := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		if bit(a) == bit(local) {
			return a.AsSlice()
		}
	}
	return nil
}

// Packets of one-packet scheduling are connections that the program opens, and it is known how many
// before the estimator's next round.
func TestSharesOnePacket(t *testing.T) {
	w := newSharing(t)
	k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 53}
	w.add(ulvs.Service{ServiceKey: k, Scheduler: "rr", OnePacket: true})
	for n := range uint64(20) {
		if want := (ulvs.Opened{ByPlane: n}); w.opened(k) != want {
			t.Fatalf("after %d packets %+v", n, w.opened(k))
		}
		w.send(shape{proto: layers.IPProtocolUDP, port: 2000 + uint16(n), to: 53}.frame(t))
		if n%4 == 3 {
			w.move(time.Second)
		}
	}
}

// A service by mark with a hundred rules takes nothing of what the program opens from the plain
// services beside it, nor do rules about clients and ports of others, and its own are the program's too.
func TestSharesBesideRules(t *testing.T) {
	const syns = 10_000
	opened := func(rules int) (byPlane, byMark uint64) {
		w := newSharing(t)
		w.add(ulvs.Service{ServiceKey: tcpAt(80), Scheduler: "rr"})
		w.add(ulvs.Service{ServiceKey: tcpAt(81), Scheduler: "wlc"})
		ports := []uint16{80, 81}
		if rules > 0 {
			w.add(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 10}, Scheduler: "rr"})
			ports = append(ports, 4000)
		}
		for i := range rules {
			w.rules("-A PREROUTING " + [...]string{
				fmt.Sprintf("-d 192.168.10.101 -p tcp --dport %d -j MARK --set-mark 10", 4000+i),
				fmt.Sprintf("-d 192.168.10.101 -p tcp --dport %d -s 10.%d.0.0/16 -j MARK --set-mark 10", 5000+i, i),
				fmt.Sprintf("-p tcp --dport %d -i eth1 -j MARK --set-mark 10", 6000+i),
				fmt.Sprintf("-d 192.168.10.%d -s 10.0.0.0/8 -j MARK --set-mark 10", 102+i),
			}[i%4])
		}
		w.move(time.Second)
		for i := range len(ports) * syns / 2 {
			f := w.syn(ports[i%len(ports)], 31, byte(i>>16), byte(i>>8), byte(i))
			if w.run(f) == program.ActionPass {
				w.handled(w.fast, [][]byte{f})
			}
			if i%100 == 99 {
				w.fast.Tick(w.still.now)
			}
		}
		for _, k := range []ulvs.ServiceKey{tcpAt(80), tcpAt(81)} {
			byPlane += w.opened(k).ByPlane
		}
		if rules > 0 {
			byMark = w.opened(ulvs.ServiceKey{Mark: 10}).ByPlane
		}
		t.Logf("with %d rules the program opened %d of %d connections to plain services, and %d by mark; Go %v",
			rules, byPlane, syns, byMark, w.inGo())
		return byPlane, byMark
	}
	without, _ := opened(0)
	with, byMark := opened(100)
	if with*100 < without*99 || without < syns*99/100 {
		t.Errorf("of %d connections to plain services the program opened %d, and %d beside a hundred rules", syns, without, with)
	}
	if byMark < syns/2*99/100 {
		t.Errorf("of %d connections by mark the program opened %d", syns/2, byMark)
	}
}
