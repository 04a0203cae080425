package director_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/packet"
)

// otherMAC is that of another interface of the director's, which is down.
var otherMAC = dataplane.MAC{2, 0, 0, 0, 10, 99}

// linked is a plane that knows its interface.
type linked struct{ *dataplanetest.Plane }

func (linked) Links() []dataplane.Link {
	return []dataplane.Link{{Given: "eth0", Name: "eth0", Index: eth0, MAC: directorMAC, MTU: 1500, Up: true, Ethernet: true},
		{Given: "eth1", Name: "eth1", Index: eth0 + 1, MAC: otherMAC, MTU: 1500, Ethernet: true}}
}
func (linked) Follow(dataplane.LinkUser) {}

// standing is a bed whose director serves at times.
func standing(t *testing.T, w director.While, log *bytes.Buffer) *bed {
	b := emptyBed(t)
	b.begin(director.Options{While: w, Logger: slog.New(slog.NewTextHandler(log, nil))}, linked{b.plane})
	b.plane.SetWithholds(true)
	b.plane.SetInjects(true)
	return b
}

// has gives the host an address, or takes it away.
func (b *bed) has(addr string, yes bool) {
	b.resolver.SetLocal(netip.MustParseAddr(addr), yes)
	b.Tick(b.plane.Now())
}

// asked are the frames that the director sent of its own: "announces ADDR" or "asks ADDR".
func (b *bed) asked() (list []string) {
	for _, r := range b.plane.Sent() {
		var p packet.Packet
		p.Parse(r.Data)
		switch {
		case p.Kind == packet.ARP && p.ARPSender == p.ARPTarget:
			list = append(list, "announces "+p.ARPSender.String())
		case p.Kind == packet.ARP:
			list = append(list, "asks "+p.ARPTarget.String())
		default:
			a, _, ok := p.Claimed(r.Data)
			if target, asks := p.NDTarget(r.Data); asks {
				list = append(list, "asks "+target.String())
			} else if ok {
				list = append(list, "announces "+a.String())
			}
		}
	}
	return list
}

func arpFrame(op byte, mac dataplane.MAC, sender, target string) []byte {
	f := slices.Concat(directorMAC[:], mac[:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, op}, mac[:], netip.MustParseAddr(sender).AsSlice(),
		make([]byte, 6), netip.MustParseAddr(target).AsSlice())
	return f
}

// Each virtual address is served while the host has it: connections of another time are kept, and
// their packets dropped meanwhile. All else is the host's.
func TestWhileVirtual(t *testing.T) {
	var log bytes.Buffer
	b := standing(t, director.While{Virtual: true}, &log)
	b.must(b.AddService(ulvs.Service{ServiceKey: udp(53)}))
	b.service(persistent(tcp(80), "rr", time.Hour), 2)
	b.service(ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(vip6), Port: 80}, Scheduler: "rr"}, 1)
	if c, _ := b.plane.Claims(); !c.WhileLocal || len(c.Services) != 3 {
		t.Errorf("claims are %+v", c)
	}
	syn := pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}
	ack, data := syn, syn
	ack.flags, data.flags = "A", "PA"
	expect(t, "without the address", b.sends(syn, ack), "drop drop")
	expect(t, "who asks for it", b.deliver(arpFrame(1, clientMAC, "192.168.10.1", vip)), "pass")
	b.has(vip, true)
	expect(t, "with it", b.sends(syn, ack), "r1 r1")
	expect(t, "who asks for it then", b.deliver(arpFrame(1, clientMAC, "192.168.10.1", vip)), "pass") // the host answers
	six := pkt{src: "[fd01::1]:1", dst: "[" + vip6 + "]:80", flags: "S"}
	expect(t, "the other family", b.send(six), "drop")
	b.has(vip, false)
	expect(t, "a connection, and another one, in the meantime", b.sends(data, pkt{src: "10.1.1.2:1", dst: vip + ":80", flags: "S"}), "drop drop")
	if n := len(b.conns()); n != 2 { // and its template
		t.Errorf("%d connections and templates are kept, want 2", n)
	}
	b.resolver.SetLocal(netip.MustParseAddr(vip), true)
	expect(t, "before it is noticed that the address is back", b.sends(data, pkt{src: "10.1.1.2:1", dst: vip + ":80", flags: "S"}), "drop drop")
	b.resolver.SetLocal(netip.MustParseAddr(vip), false)
	b.must(b.SetSysctl("expire_nodest_conn", 1))
	b.move(time.Minute)
	b.has(vip6, true)
	expect(t, "the other family has come", b.send(six), "r0")
	b.has(vip, true)
	expect(t, "its connection goes on, and so does the client", b.sends(data, pkt{src: "10.1.1.1:2", dst: vip + ":80", flags: "S"}), "r1 r1")
	b.must(b.DeleteDestination(tcp(80), netip.MustParseAddrPort(serverAddr(1)+":80")))
	b.has(vip, false)
	b.must(b.AddDestination(tcp(80), dest(tcp(80), 2, 1)))
	expect(t, "a server that comes meanwhile, and one that is gone", b.send(syn), "drop")
	b.has(vip, true)
	expect(t, "and is there then", b.sends(pkt{src: "10.1.1.3:1", dst: vip + ":80", flags: "S"}, pkt{src: "10.1.1.4:1", dst: vip + ":80", flags: "S"}), "r2 r0")
	if want := "services whose address the host has are served, others stand by"; !strings.Contains(log.String(), want) {
		t.Errorf("the log has no %q:\n%s", want, &log)
	}
	if got := b.asked(); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "announces") }) {
		t.Errorf("it announces what the host answers for: %q", got)
	}
}

// All is served while the host has an address of its own: then the director answers for virtual
// addresses that the host does not have, and announces that.
func TestWhileAddrs(t *testing.T) {
	const router = "192.168.10.9"
	var log bytes.Buffer
	b := standing(t, director.While{Addrs: []netip.Addr{netip.MustParseAddr(router)}}, &log)
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	b.service(ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(vip6), Port: 80}, Scheduler: "rr"}, 1)
	syn, ask := pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}, arpFrame(1, clientMAC, "192.168.10.1", vip)
	facts := func() (text string) {
		list, err := b.Facts()
		b.must(err)
		for _, f := range list {
			if f.Name == "while-address" {
				text = f.Value
			}
		}
		return text
	}
	expect(t, "without it", b.send(syn)+" "+b.deliver(ask), "drop pass")
	expect(t, "status", facts(), router+": standing by, the host has it not")
	if c, _ := b.plane.Claims(); !c.WhileLocal {
		t.Error("what the host does not have is claimed")
	}
	b.asked()
	b.has(router, true)
	expect(t, "with it", b.send(syn), "r0")
	expect(t, "ARP", b.deliver(ask), "arp")
	expect(t, "status", facts(), router+": serving, the host has it")
	if c, _ := b.plane.Claims(); c.WhileLocal {
		t.Error("what the host does not have is not claimed")
	}
	count := func() map[string]int {
		n := map[string]int{}
		for _, s := range b.asked() {
			n[s]++
		}
		return n
	}
	if n := count(); n["announces "+vip] != 5 || n["announces "+vip6] != 5 {
		t.Errorf("announced at once: %v", n)
	}
	b.move(4 * time.Second)
	if n := count(); n["announces "+vip] != 0 {
		t.Errorf("after four seconds: %v", n)
	}
	b.move(2 * time.Second)
	if n := count(); n["announces "+vip] != 5 || n["announces "+vip6] != 5 {
		t.Errorf("after six seconds: %v", n)
	}
	b.move(10 * time.Second)
	if n := count(); n["announces "+vip] != 0 {
		t.Errorf("later: %v", n)
	}
	b.must(b.AddService(ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.168.10.102"), Port: 80}}))
	b.move(50 * time.Millisecond)
	if n := count(); n["announces 192.168.10.102"] != 5 || n["announces "+vip] != 0 {
		t.Errorf("one that is new: %v", n)
	}
	b.must(b.DeleteService(ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.168.10.102"), Port: 80}))
	b.move(6 * time.Second)
	if n := count(); n["announces 192.168.10.102"] != 0 {
		t.Errorf("one that is gone: %v", n)
	}
	b.has(router, false)
	expect(t, "without it again", b.send(syn)+" "+b.deliver(ask), "drop pass")
	for _, want := range []string{"standing by: the host has not the address", "serving: the host has the address"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, &log)
		}
	}
}

// Another host that answers for a virtual address is named once, and counted; not one that does so
// while the director is told that it serves no more.
func TestAddressConflict(t *testing.T) {
	var log bytes.Buffer
	b := standing(t, director.While{Virtual: true}, &log)
	b.has(vip, true)
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	b.move(time.Minute)
	if got := b.asked(); !slices.Contains(got, "asks "+vip) {
		t.Errorf("it does not ask for the address, but %q", got)
	}
	answer := arpFrame(2, serverMAC(0), vip, "192.168.10.100")
	for range 3 {
		b.deliver(answer)
		b.move(2 * time.Second)
	}
	b.move(2 * time.Second)
	if n := strings.Count(log.String(), "another host answers"); n != 1 || !strings.Contains(log.String(), "arp_ignore=1") || !strings.Contains(log.String(), "02:00:00:00:0a:c8") {
		t.Errorf("it is said %d times:\n%s", n, &log)
	}
	if n := b.counter("address_conflicts"); n != 3 {
		t.Errorf("%d are counted, want 3", n)
	}
	// The next master announces itself a moment before this one hears that it is none any more.
	b.deliver(arpFrame(1, serverMAC(1), vip, vip))
	b.has(vip, false)
	b.move(2 * time.Second)
	b.deliver(arpFrame(1, serverMAC(1), vip, vip))
	b.move(2 * time.Second)
	b.has(vip, true)
	b.deliver(arpFrame(1, directorMAC, vip, vip))
	b.deliver(arpFrame(1, otherMAC, vip, vip)) // our own, by another interface
	b.move(2 * time.Second)
	b.move(2 * time.Second)
	if n := b.counter("address_conflicts"); n != 3 {
		t.Errorf("%d are counted, want 3", n)
	}
	// A stranger invents hosts.
	for i := range 5000 {
		b.deliver(arpFrame(2, dataplane.MAC{2, 1, 1, 1, byte(i >> 8), byte(i)}, vip, "192.168.10.100"))
		if i%50 == 0 {
			b.move(100 * time.Millisecond)
		}
	}
	b.move(2 * time.Second)
	b.move(2 * time.Second)
	if n := strings.Count(log.String(), "another host answers"); n > 16 {
		t.Errorf("%d hosts are named", n)
	}
	b.move(2 * time.Hour)
	b.deliver(answer)
	b.move(2 * time.Second)
	b.move(2 * time.Second)
	if n := strings.Count(log.String(), "02:00:00:00:0a:c8"); n != 2 {
		t.Errorf("after two hours it was named %d times", n)
	}
}

// A service by mark is served while the host has one of the addresses that its rules name.
func TestWhileMark(t *testing.T) {
	var log bytes.Buffer
	b := standing(t, director.While{Virtual: true}, &log)
	b.service(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 7}, Scheduler: "rr"}, 1)
	syn := pkt{src: "10.1.1.1:1", dst: vip + ":443", flags: "S"}
	mark := func(rule string) {
		t.Helper()
		if _, err := b.MarkCommand(false, strings.Fields("-t mangle "+rule+" -p tcp -j MARK --set-mark 7")); err != nil {
			t.Fatal(err)
		}
	}
	mark("-A PREROUTING")
	expect(t, "rules that name none", b.send(syn), "r0")
	mark("-D PREROUTING")
	mark("-A PREROUTING -d " + vip)
	expect(t, "one that the host has not", b.sends(syn, pkt{src: "10.1.1.9:1", dst: vip + ":443", flags: "S"}), "drop drop")
	b.has(vip, true)
	expect(t, "and has", b.send(syn), "r0")
	b.has(vip, false)
	mark("-A PREROUTING -d 192.168.10.7")
	b.has("192.168.10.7", true)
	expect(t, "one of two", fmt.Sprint(b.send(pkt{src: "10.1.1.1:1", dst: "192.168.10.7:443", flags: "S"})), "r0")
}
