package conn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/packet"
)

const hz = 250

func flow(n int, proto uint8) packet.Flow {
	c := netip.AddrFrom4([4]byte{10, byte(n >> 24), byte(n >> 16), byte(n >> 8)})
	v := netip.MustParseAddr("192.168.10.101")
	if n&1 == 1 {
		c = netip.AddrFrom16([16]byte{0xfd, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: 1})
		v = netip.MustParseAddr("fd00:10::101")
	}
	return packet.NewFlow(proto, netip.AddrPortFrom(c, uint16(1024+n&0xff)), netip.AddrPortFrom(v, 80))
}

func newTable(t testing.TB, max int, expired func(ID)) *Table {
	t.Helper()
	if expired == nil {
		expired = func(ID) {}
	}
	tab, err := New(Options{Max: max, Hz: hz, Expired: expired})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tab.Close)
	return tab
}

// The client's half of TCP, state by state, as tcp_states' INPUT-ONLY rows of
// Linux 6.1 say it.
func TestTCPStates(t *testing.T) {
	short := map[string]string{
		"NO": "NONE", "ES": "ESTABLISHED", "SS": "SYN_SENT", "SR": "SYN_RECV", "FW": "FIN_WAIT", "TW": "TIME_WAIT",
		"CL": "CLOSE", "CW": "CLOSE_WAIT", "LA": "LAST_ACK", "LI": "LISTEN", "SA": "SYNACK",
	}
	rows := map[uint8]string{
		packet.SYN: "SR ES ES SR SR SR SR SR SR SR SR",
		packet.FIN: "CL FW SS TW FW TW CL CW LA LI TW",
		packet.ACK: "ES ES SS ES FW TW CL CW CL LI ES",
		packet.RST: "CL CL CL SR CL CL CL CL LA LI CL",
		0:          "CL CL CL CL CL CL CL CL CL CL CL",
		// What else is set does not matter to the order of RST, SYN, FIN, ACK.
		packet.SYN | packet.ACK | packet.FIN:              "SR ES ES SR SR SR SR SR SR SR SR",
		packet.RST | packet.ACK | packet.SYN | packet.PSH: "CL CL CL SR CL CL CL CL LA LI CL",
		packet.PSH | packet.URG:                           "CL CL CL CL CL CL CL CL CL CL CL",
	}
	active := "ESTABLISHED SYN_SENT SYN_RECV SYNACK"
	seconds := map[string]int{"NONE": 2, "ESTABLISHED": 900, "SYN_SENT": 120, "SYN_RECV": 60, "FIN_WAIT": 120, "TIME_WAIT": 120,
		"CLOSE": 10, "CLOSE_WAIT": 60, "LAST_ACK": 30, "LISTEN": 120, "SYNACK": 120}
	tab := newTable(t, 10, nil)
	for flags, row := range rows {
		for from, to := range strings.Fields(row) {
			f := flow(2, protoTCP)
			id, err := tab.Insert(&f, tab.Hash(&f), 1, 0, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			fromActive := strings.Contains(active, tcpNames[from])
			state := uint32(from) | flagSet
			if fromActive {
				state |= flagActive
			}
			tab.SetState(id, state)
			tab.Arm(id, uint32(seconds[tcpNames[from]])*hz, 0)
			c := tab.TCP(id, flags, 100)
			want := short[to]
			toActive := strings.Contains(active, want)
			if got := tab.StateName(id); got != want {
				t.Errorf("flags %#x: from %s to %s, want %s", flags, tcpNames[from], got, want)
			}
			if c.Activated != (toActive && !fromActive) || c.Deactivated != (!toActive && fromActive) || tab.Active(id) != toActive {
				t.Errorf("flags %#x: from %s to %s: %+v, active %v", flags, tcpNames[from], want, c, tab.Active(id))
			}
			if c.Established != (want == "ESTABLISHED" && tcpNames[from] != want) {
				t.Errorf("flags %#x: from %s to %s: established is %v", flags, tcpNames[from], want, c.Established)
			}
			if got := tab.Expires(id, 100); got != time.Duration(seconds[want])*time.Second {
				t.Errorf("flags %#x: from %s to %s expires in %v", flags, tcpNames[from], want, got)
			}
			tab.End(id)
		}
	}
}

// The client's half of SCTP, as sctp_states' INPUT-ONLY rows of Linux 6.1 say
// it, by chunk type.
func TestSCTPStates(t *testing.T) {
	short := strings.Fields("NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL")
	index := map[string]int{}
	for i, s := range short {
		index[s] = i
	}
	rows := map[uint8]string{
		0:  "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL",
		1:  "I1 IN IN IN IN IN CO CE ES SS SR SA IN IN",
		2:  "CE CE CE CE CE CE CO CE ES SS SR SA RJ CL",
		10: "ES ES ES ES ES ES CO CE ES SS SR SA RJ CL",
		11: "ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL",
		7:  "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
		8:  "CL IN IN CS CR CW CO CE CL CL SR CL RJ CL",
		14: "CL CL CL CL CL CW CO CE ES SS CL CL RJ CL",
		9:  "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
		6:  "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
		3:  "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL", // SACK is data
		99: "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL", // so is what nobody knows
	}
	tab := newTable(t, 10, nil)
	for chunk, row := range rows {
		for from, to := range strings.Fields(row) {
			f := flow(2, protoSCTP)
			id, _ := tab.Insert(&f, tab.Hash(&f), 1, 0, 0, 0)
			state := uint32(from)
			if from == sctpEstablished {
				state |= flagActive
			}
			tab.SetState(id, state)
			tab.SCTP(id, chunk, 0)
			if got, want := tab.StateName(id), sctpNames[index[to]]; got != want {
				t.Errorf("chunk %d: from %s to %s, want %s", chunk, sctpNames[from], got, want)
			}
			if want := to == "ES"; tab.Active(id) != want {
				t.Errorf("chunk %d: from %s to %s: active %v", chunk, sctpNames[from], to, !want)
			}
			tab.End(id)
		}
	}
}

// Expiry against a list of connections and their times.
func TestExpiryAgainstOracle(t *testing.T) {
	type entry struct {
		flow         packet.Flow
		id           ID
		last, timout uint32
	}
	live := map[int]*entry{}
	var gone []ID
	tab := newTable(t, 60, func(id ID) { gone = append(gone, id) })
	rng := rand.New(rand.NewPCG(1, 1))
	now := uint32(0)
	full := false
	for step := range 50_000 {
		n := rng.IntN(600)
		e := live[n]
		f := flow(n<<8|n&1, protoTCP)
		h := tab.Hash(&f)
		id, ok := tab.Lookup(&f, h)
		if ok != (e != nil) || ok && id != e.id {
			t.Fatalf("step %d: look-up of %d: %d %v, want %+v", step, n, id, ok, e)
		}
		switch {
		case e == nil:
			id, err := tab.Insert(&f, h, uint32(n)+1, 0, now, 0)
			if errors.Is(err, ErrFull) {
				full = true
				break
			}
			live[n] = &entry{flow: f, id: id, last: now, timout: 3 * hz}
		case rng.IntN(10) == 0:
			tab.End(e.id)
			delete(live, n)
		default:
			flags := []uint8{packet.SYN, packet.ACK, packet.FIN, packet.RST}[rng.IntN(4)]
			tab.TCP(e.id, flags, now)
			e.last = now
			e.timout = tab.timeouts.tcp[tab.State(e.id)&stateMask]
		}
		if rng.IntN(20) == 0 {
			now += rng.Uint32N(40 * hz)
			gone = gone[:0]
			for tab.Advance(now, 7) {
			}
			for _, id := range gone {
				found := false
				for n, e := range live {
					if e.id == id {
						found = now-e.last >= e.timout
						delete(live, n)
						break
					}
				}
				if !found {
					t.Fatalf("step %d: %d expired before its time", step, id)
				}
			}
			for n, e := range live {
				if now-e.last >= e.timout {
					t.Fatalf("step %d: %d outlived its %d ticks", step, n, e.timout)
				}
			}
		}
		if tab.Len() != len(live) {
			t.Fatalf("step %d: %d connections, want %d", step, tab.Len(), len(live))
		}
	}
	if !full {
		t.Fatal("the table was never full: the test does not test that")
	}
}

// A timeout that --set shortens holds from a connection's next packet on, and
// one that it lengthens too.
func TestSetTimeouts(t *testing.T) {
	tab := newTable(t, 10, nil)
	f := flow(2, protoUDP)
	id, _ := tab.Insert(&f, tab.Hash(&f), 1, 0, 0, 0)
	tab.UDP(id, 0)
	if got := tab.Expires(id, 0); got != 5*time.Minute {
		t.Fatalf("expires in %v", got)
	}
	tab.SetTimeouts(0, 0, 10*time.Second)
	if got := tab.Expires(id, 0); got != 5*time.Minute {
		t.Fatalf("expires in %v before its next packet", got)
	}
	tab.UDP(id, hz)
	if got := tab.Expires(id, hz); got != 10*time.Second {
		t.Fatalf("expires in %v after its next packet", got)
	}
	tab.SetTimeouts(20*time.Second, 0, time.Hour)
	tab.UDP(id, 2*hz)
	tab.Advance(61*hz, 1000)
	if tab.Len() != 1 {
		t.Fatal("it expired with its old timeout")
	}
	if tcp, fin, udp := tab.Timeouts(); tcp != 20*time.Second || fin != 2*time.Minute || udp != time.Hour {
		t.Fatal(tcp, fin, udp)
	}
}

func TestEach(t *testing.T) {
	tab := newTable(t, 1000, nil)
	want := map[packet.Flow]bool{}
	for n := range 700 {
		f := flow(n<<8|n&1, protoTCP)
		if _, err := tab.Insert(&f, tab.Hash(&f), 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		want[f] = true
	}
	for at, more := ID(0), true; more; {
		at, more = tab.Each(at, 100, func(id ID) { delete(want, *tab.Flow(id)) })
	}
	if len(want) != 0 {
		t.Fatalf("%d connections were not listed", len(want))
	}
}

func TestAllocates(t *testing.T) {
	tab := newTable(t, 1000, nil)
	now := uint32(0)
	if n := testing.AllocsPerRun(50, func() {
		for i := range 100 {
			f := flow(i<<8|i&1, protoTCP)
			h := tab.Hash(&f)
			id, _ := tab.Insert(&f, h, 1, 0, now, 0)
			tab.TCP(id, packet.SYN, now)
			tab.TCP(id, packet.ACK, now)
		}
		now += 1000 * hz
		for tab.Advance(now, 100) {
		}
		if tab.Len() != 0 {
			t.Fatal("not all expired")
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkTurnover(b *testing.B) {
	for _, live := range []int{1 << 10, 1 << 20} {
		b.Run(fmt.Sprint(live), func(b *testing.B) {
			tab := newTable(b, live+1, nil)
			ids := make([]ID, live)
			fill := func(n int) {
				f := packet.Flow{uint64(n) * 0x9e3779b97f4a7c15, 0x0406_5000_0400}
				id, err := tab.Insert(&f, tab.Hash(&f), 1, 0, 0, 0)
				if err != nil {
					b.Fatal(err)
				}
				tab.TCP(id, packet.SYN, 0)
				ids[n%live] = id
			}
			for n := range live {
				fill(n)
			}
			n := live
			for b.Loop() {
				tab.End(ids[n%live])
				fill(n)
				n++
			}
		})
	}
}

// In quarantine, a slot that a connection left is given to another only after
// Free: whoever looks at it beside Go may still believe the old one.
func TestQuarantine(t *testing.T) {
	const n = 64
	tab, err := New(Options{Max: n, Hz: 250, Quarantine: true, Expired: func(ID) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	flow := func(i int) packet.Flow {
		return packet.NewFlow(17, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1000), netip.MustParseAddrPort("192.168.10.101:80"))
	}
	retired := map[ID]bool{}
	for i := range 1000 {
		f := flow(i)
		id, err := tab.Insert(&f, tab.Hash(&f), 1, 0, 0, 0)
		if err != nil { // what is in quarantine is missing now
			for _, s := range tab.Retired() {
				tab.Free([]uint32{s})
				delete(retired, ID(s))
			}
			if len(retired) != 0 {
				t.Fatalf("%d slots are neither in quarantine nor free", len(retired))
			}
			continue
		}
		if retired[id] {
			t.Fatalf("slot %d is used again in quarantine", id)
		}
		tab.End(id)
		retired[id] = true
		if tab.Live(id) {
			t.Fatal("a removed connection lives")
		}
		if _, found := tab.Lookup(&f, tab.Hash(&f)); found {
			t.Fatal("a removed connection is found")
		}
	}
}
