package xdp

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/director"
)

// restoreRules puts rules in the place of all of a family, for both directors.
func (w *pair) restoreRules(six bool, lines ...string) {
	w.log = append(w.log, lines...)
	text := "*mangle\n:A -\n"
	for _, line := range lines {
		text += "-A " + line + "\n"
	}
	for _, d := range []*director.Director{w.fast, w.plain} {
		w.must(d.MarkRestore(six, text+"COMMIT\n"))
	}
}

// rulesWorld has services by the marks 10 and 11, and at least one by address.
func rulesWorld(w *pair, six bool) {
	add := func(k ulvs.ServiceKey, s ulvs.Service, servers ...int) {
		s.ServiceKey = k
		w.both(fmt.Sprint("add ", k), func(c ulvs.Control) error { return c.AddService(s) })
		for _, i := range servers {
			w.both(fmt.Sprint("add ", k, i), func(c ulvs.Control) error {
				return c.AddDestination(k, ulvs.Destination{Addr: pairServer(six, i), Port: k.Port, Weight: 1})
			})
		}
	}
	add(ulvs.ServiceKey{Mark: 10, IPv6: six}, ulvs.Service{Scheduler: "rr"}, 0, 1)
	add(ulvs.ServiceKey{Mark: 11, IPv6: six}, ulvs.Service{Scheduler: "wlc", Persistence: ulvs.Persistence{Timeout: time.Minute}}, 1, 2)
	for _, proto := range []ulvs.Protocol{ulvs.TCP, ulvs.UDP} {
		add(ulvs.ServiceKey{Protocol: proto, Addr: pairVIP(six), Port: 80}, ulvs.Service{Scheduler: "rr"}, 2, 3)
	}
	w.move(time.Second)
}

// visit is a first packet of a client, one of 16 in four networks of a site.
func (w *pair) visit(six bool, site, n int) []byte {
	s := shape{six: six, proto: choose(w.rng, layers.IPProtocolTCP, layers.IPProtocolUDP), flags: "S", port: uint16(1024 + n), to: choose[uint16](w.rng, 80, 80, 81)}
	if six {
		f := s.frame(w.t)
		copy(f[22:38], netip.MustParseAddr(fmt.Sprintf("fd01:0:%d:%d::%d", site, w.rng.IntN(4), 1+w.rng.IntN(4))).AsSlice())
		return f
	}
	s.from = [4]byte{11, byte(site), byte(w.rng.IntN(4)), byte(1 + w.rng.IntN(4))}
	return s.frame(w.t)
}

// TestRules has the program follow rules that look at the client, the source port and the interface,
// and compares each packet with a director that has no program.
func TestRules(t *testing.T) {
	const opens, some, none = 90, 1, 0 // of a hundred
	worlds := map[bool]*pair{}
	for _, six := range []bool{false, true} {
		worlds[six] = newPair(t, 3)
		rulesWorld(worlds[six], six)
	}
	for site, tt := range []struct {
		name   string
		rules  string // {vip}, {net}: two of four networks, {host}: one client's
		opened int
		marked bool
	}{
		{"a network", "PREROUTING -d {vip} -s {net} -j MARK --set-mark 10", opens, true},
		{"all but a network", "PREROUTING -d {vip} ! -s {net} -j MARK --set-mark 10", opens, true},
		{"networks in turn", "PREROUTING -d {vip} -s {net} -j MARK --set-mark 10\nINPUT -d {vip} -s {host} -j MARK --set-mark 11", opens, true},
		{"source ports", "PREROUTING -d {vip} -p tcp --sport 1024:1050 -j MARK --set-mark 10\n" +
			"PREROUTING -d {vip} -p udp -m multiport --sports 1030,1060:1070,1090 -j MARK --set-mark 11", opens, true},
		{"all but source ports", "PREROUTING -d {vip} -p tcp ! --sport 1024:1050 -j MARK --set-mark 10", opens, true},
		{"an interface", "PREROUTING -d {vip} -i eth0 -j MARK --set-mark 10", opens, true},
		{"interfaces", "PREROUTING -d {vip} -i eth+ -s {net} -j MARK --set-mark 10", opens, true},
		{"another interface", "PREROUTING -d {vip} -i eth1 -j MARK --set-mark 10", opens, false},
		{"all but an interface", "PREROUTING -d {vip} ! -i lo+ -j MARK --set-mark 11", opens, true},
		{"a chain", "PREROUTING -d {vip} -p tcp -j A\nA -s {net} -j RETURN\nA -j MARK --set-mark 11\nINPUT -m mark --mark 11 -s {host} -j MARK --xor-mark 1", opens, true},
		{"an end", "PREROUTING -s {net} -j ACCEPT\nPREROUTING -d {vip} -j MARK --or-mark 8\nINPUT -m mark ! --mark 0 -j MARK --or-mark 2", opens, true},
		{"a mark without a service", "PREROUTING -d {vip} -s {net} -j MARK --set-mark 12", opens, false},
		{"a range of clients", "PREROUTING -d {vip} -m iprange --src-range {range} -j MARK --set-mark 10", opens, true},
		{"flags of some", "PREROUTING -d {vip} -p tcp -s {net} --syn -j MARK --set-mark 10\nPREROUTING -d {vip} -p udp -s {net} -j MARK --set-mark 11", some, true},
		{"a MAC address", "PREROUTING -d {vip} -m mac --mac-source 02:00:00:00:00:07 -j MARK --set-mark 10", none, false},
	} {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " ", six), func(t *testing.T) {
				w := worlds[six]
				w.t = t
				net, host, both := "11.%d.0.0/23", "11.%d.1.2", "11.%[1]d.0.3-11.%[1]d.2.2"
				if six {
					net, host, both = "fd01:0:%d:2::/63", "fd01:0:%d:1::2", "fd01:0:%[1]d::3-fd01:0:%[1]d:2::2"
				}
				words := strings.NewReplacer("{vip}", pairVIP(six).String(), "{net}", fmt.Sprintf(net, site), "{host}", fmt.Sprintf(host, site),
					"{range}", fmt.Sprintf(both, site))
				w.restoreRules(six, strings.Split(words.Replace(tt.rules), "\n")...)
				visits(w, six, site, tt.opened, tt.marked)
			})
		}
	}
}

// visits sends first packets, of which so many of a hundred are to be opened by the program.
func visits(w *pair, six bool, site, opened int, marked bool) {
	w.t.Helper()
	n, marks, before := 0, 0, w.openedNow()
	const all = 100
	for i := range all {
		was := w.byMark()
		if w.send(w.visit(six, site, i)); w.byMark() > was {
			marks++
		}
		n++
	}
	w.compare()
	got := int(w.openedNow() - before)
	// To port 81 there is only what has a mark.
	if got*100 < opened*n*6/10 || opened == 0 && got > 0 {
		w.t.Errorf("the program opened %d of %d connections", got, n)
	}
	if (marks > all/10) != marked && opened > 0 {
		w.t.Errorf("%d had a mark", marks)
	}
}

// An interface has the name that it has by now: lists are made anew when that changes. What has a VLAN
// tag came by another one, and is Go's.
func TestRulesByInterface(t *testing.T) {
	w := newPair(t, 4)
	rulesWorld(w, false)
	w.restoreRules(false, "PREROUTING -d "+pairVIP(false).String()+" -i eth0 -j MARK --set-mark 10")
	syn := func(n int, tags ...uint16) []byte {
		s := shape{proto: layers.IPProtocolTCP, flags: "S", port: uint16(3000 + n), to: 80, vlans: tags}
		return s.frame(t)
	}
	for i, name := range []string{"eth0", "wan", "eth0", "eth00"} {
		w.resolver.SetLink(1, name, own)
		w.move(time.Second)
		before := w.byMark()
		if !w.send(syn(10 * i)) {
			t.Errorf("%s: the program has not opened a connection", name)
		}
		if got := w.byMark() > before; got != (name == "eth0") {
			t.Errorf("%s: by mark %v", name, got)
		}
		if w.send(syn(10*i+1, 5)) {
			t.Errorf("%s: the program has opened a connection in a VLAN", name)
		}
	}
	w.compare()
}

// While rules change, and are written where others were, each client gets to where the old ones and the
// new ones lead.
func TestRulesChange(t *testing.T) {
	w := newPair(t, 5)
	vip := pairVIP(false).String()
	add := func(k ulvs.ServiceKey, server int) {
		w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "sh", OnePacket: true}))
		w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, server), Port: k.Port, Weight: 1}))
	}
	add(ulvs.ServiceKey{Mark: 10}, 0)
	add(ulvs.ServiceKey{Mark: 11}, 1)
	add(ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 80}, 2)
	c := &w.still.claims
	c.mu.Lock()
	c.rules.free = []extent{{200, 60}}
	c.mu.Unlock()
	other, lists := netip.MustParseAddr("192.168.10.102"), []string{}
	for n := range 7 { // of different lengths, and the same outcome; those of another destination stay
		text := "*mangle\n"
		for i := range 8 {
			text += fmt.Sprintf("-A PREROUTING -d %v -p udp -s 11.1.%d.0/%d -j MARK --set-mark %d\n", other, i/4*128, 17+i/4, 11-i/4)
		}
		for i := range 4 + 3*n {
			text += fmt.Sprintf("-A PREROUTING -d %s -p udp -s 12.%d.%d.0/24 -j MARK --set-mark %d\n", vip, n, i, 10+i%2)
		}
		lists = append(lists, text+"-A PREROUTING -d "+vip+" -p udp -s 11.1.0.0/17 -j MARK --set-mark 10\n-A PREROUTING -d "+vip+
			" -p udp -s 11.1.128.0/18 -j MARK --set-mark 11\nCOMMIT\n")
	}
	w.must(w.fast.MarkRestore(false, lists[0]))
	frame := shape{proto: layers.IPProtocolUDP, port: 999, to: 80}.frame(t)
	for _, b := range []byte{0, 128, 192} { // hops are known
		from(frame, netip.AddrFrom4([4]byte{11, 1, b, 250}))
		w.fate(w.fast, frame)
	}
	w.fast.Tick(w.still.now)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var sent, opened atomic.Int64
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; !stop.Load(); i++ {
			client := netip.AddrFrom4([4]byte{11, 1, byte(i >> 8), byte(i)})
			to, servers := pairVIP(false), []int{0, 0, 1, 2}
			if i%3 == 0 {
				to, servers = other, []int{1, 1, 0, -200}
			}
			copy(frame[30:34], to.AsSlice())
			from(frame, client)
			action, out, err := runByHand(w.still.prog, frame)
			if err != nil {
				t.Error(err)
				return
			}
			if sent.Add(1); action != program.ActionTX {
				w.still.leave(frame)
				continue
			}
			opened.Add(1)
			want := servers[byte(i>>8)>>6]
			if got := dataplane.MAC(out[:6]); got != (dataplane.MAC{2, 0, 0, 0, 10, byte(200 + want)}) {
				t.Errorf("from %v to %v leads to %v, want server %d", client, to, got, want)
				return
			}
		}
	}()
	for n := 0; n < 150 || sent.Load() < 4000; n++ {
		w.must(w.fast.MarkRestore(false, lists[n*5%len(lists)]))
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("of %d packets the program sent %d", sent.Load(), opened.Load())
	if opened.Load() < sent.Load()/10 { // meanwhile some wait for room
		t.Error("that was not much")
	}
}

// A thousand rules for clients' networks are put in place by one change, and a list of as many steps
// as can be is read to its end; beyond, and where there is no room, Go decides.
func TestRulesMany(t *testing.T) {
	w := newPair(t, 6)
	rulesWorld(w, false)
	var lines []string
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf("PREROUTING -d 10.9.%d.%d -s 11.%d.%d.0/24 -j MARK --set-mark 10", i>>8, i&255, 1+i>>8, i&255))
	}
	begin := time.Now()
	w.restoreRules(false, lines...)
	t.Logf("%d rules in %v", len(lines), time.Since(begin))
	visit := func(client, to netip.Addr) bool {
		f := shape{proto: layers.IPProtocolTCP, flags: "S", port: uint16(1024 + w.rng.IntN(60000)), to: 80}.frame(t)
		copy(f[30:34], to.AsSlice())
		from(f, client)
		return w.send(f)
	}
	at := func(i int) (client, to netip.Addr) {
		return netip.AddrFrom4([4]byte{11, byte(1 + i>>8), byte(i), 7}), netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
	}
	for _, i := range []int{0, 1, 255, 256, 500, 999} {
		client, to := at(i)
		if !visit(client, to) {
			t.Errorf("rule %d: the program has not opened a connection", i)
		}
		if client, _ = at(i + 3); visit(client, to) {
			t.Errorf("rule %d: the program has opened another's connection", i)
		}
	}
	for n := dataplane.MostSteps; n <= dataplane.MostSteps+1; n++ {
		lines = lines[:0]
		for i := range n {
			lines = append(lines, fmt.Sprintf("PREROUTING -d %v -s 11.1.%d.0/24 -j MARK --set-mark %d", pairVIP(false), i, 10+i/(n-1)))
		}
		w.restoreRules(false, lines...)
		for _, b := range []byte{0, byte(n - 1), 200} {
			if opened := visit(netip.AddrFrom4([4]byte{11, 1, b, byte(n)}), pairVIP(false)); opened != (n == dataplane.MostSteps) {
				t.Errorf("%d rules, client %d: opened by the program %v", n, b, opened)
			}
		}
	}
	c := &w.still.claims
	c.mu.Lock()
	c.rules.free, c.rules.retired = []extent{{200, 3}}, nil
	c.mu.Unlock()
	w.restoreRules(false, lines[:10]...)
	if visit(netip.AddrFrom4([4]byte{11, 1, 4, 9}), pairVIP(false)) {
		t.Error("the program follows rules for which there is no room")
	}
	for i := range 3 { // each of them where the one before was
		w.restoreRules(false, lines[i:i+2]...)
		if !visit(netip.AddrFrom4([4]byte{11, 1, 4, byte(10 + i)}), pairVIP(false)) {
			t.Error("the program does not follow rules for which there is room again")
		}
	}
	w.compare()
}
