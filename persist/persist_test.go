package persist

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

const hz = 250

// flow packs addresses and ports as packet.Flow does, which persist does not
// import.
func flow(proto uint8, client, virtual string) *[5]uint64 {
	c, v := netip.MustParseAddrPort(client), netip.MustParseAddrPort(virtual)
	var w [8]byte
	binary.BigEndian.PutUint16(w[0:], c.Port())
	binary.BigEndian.PutUint16(w[2:], v.Port())
	w[4], w[5] = proto, 4
	f := &[5]uint64{}
	if c.Addr().Is4() {
		f[0] = binary.NativeEndian.Uint64(append(c.Addr().AsSlice(), v.Addr().AsSlice()...))
	} else {
		w[5] = 6
		cs, vs := c.Addr().AsSlice(), v.Addr().AsSlice()
		f[0], f[2] = binary.NativeEndian.Uint64(cs), binary.NativeEndian.Uint64(cs[8:])
		f[3], f[4] = binary.NativeEndian.Uint64(vs), binary.NativeEndian.Uint64(vs[8:])
	}
	f[1] = binary.NativeEndian.Uint64(w[:])
	return f
}

func newTable(t testing.TB, max int, ended func(ID)) *Table {
	t.Helper()
	if ended == nil {
		ended = func(ID) {}
	}
	tab, err := New(Options{Max: max, Hz: hz, Ended: ended})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tab.Close)
	return tab
}

// The three forms of key, as reference/ipvs.md has them from the kernel.
func TestKey(t *testing.T) {
	mask := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	for _, tt := range []struct {
		name            string
		form            Form
		proto           uint8
		client, virtual string
		keepPort        bool
		want            string
	}{
		{"one service", FormFor(false, 0, netip.Addr{}), 6, "10.1.1.1:40000", "192.168.10.101:80", true, "6 10.1.1.1 192.168.10.101:80"},
		{"port zero", FormFor(false, 0, netip.Addr{}), 6, "10.1.1.1:40000", "192.168.10.101:22", false, "6 10.1.1.1 192.168.10.101:0"},
		{"mark", FormFor(false, 10, netip.Addr{}), 17, "10.1.1.1:40000", "192.168.10.101:443", false, "0 10.1.1.1 0.0.0.10:0"},
		{"large mark", FormFor(false, 0xc0a80a01, netip.Addr{}), 6, "10.1.1.1:1", "192.168.10.101:443", false, "0 10.1.1.1 192.168.10.1:0"},
		{"network", FormFor(false, 0, mask("255.255.255.0")), 6, "10.1.1.77:40000", "192.168.10.101:80", true, "6 10.1.1.0 192.168.10.101:80"},
		{"mask with a hole", FormFor(false, 0, mask("255.0.255.0")), 6, "10.1.3.77:40000", "192.168.10.101:80", true, "6 10.0.3.0 192.168.10.101:80"},
		{"mark and network", FormFor(false, 10, mask("255.255.0.0")), 6, "10.1.3.77:40000", "192.168.10.101:80", false, "0 10.1.0.0 0.0.0.10:0"},
		{"IPv6", FormFor(true, 0, netip.Addr{}), 6, "[fd00::1:2]:40000", "[fd00:10::101]:80", true, "6 fd00::1:2 [fd00:10::101]:80"},
		{"IPv6 network", FormFor(true, 0, mask("ffff:ffff:ffff:ffff::")), 6, "[fd00::1:2:3:4]:40000", "[fd00:10::101]:80", true, "6 fd00:: [fd00:10::101]:80"},
		{"IPv6 mark", FormFor(true, 10, netip.Addr{}), 6, "[fd00::1:2]:40000", "[fd00:10::101]:80", false, "0 fd00::1:2 [0:a::]:0"},
	} {
		k := keyOf(&tt.form, flow(tt.proto, tt.client, tt.virtual), tt.keepPort)
		got := string(append([]byte(nil), '0'+k.Protocol())) + " " + k.Client().String() + " " + k.Virtual().String()
		if k.Protocol() > 9 {
			got = "?" + got
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		other := keyOf(&tt.form, flow(tt.proto, tt.client[:len(tt.client)-1]+"7", tt.virtual), tt.keepPort)
		if other != k {
			t.Errorf("%s: another client port gives another key", tt.name)
		}
	}
}

// Honoured at 299 s, forgotten after 300 s; another 60 s while it controls a
// connection, and for all its further life.
func TestTimes(t *testing.T) {
	tab := newTable(t, 10, nil)
	f := FormFor(false, 0, netip.Addr{})
	k := keyOf(&f, flow(6, "10.1.1.1:1", "192.168.10.101:80"), true)
	id, err := tab.Insert(&k, tab.Hash(&k), 7, 300*time.Second, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := func(sec uint32) bool {
		for tab.Advance(sec*hz, 10) {
		}
		_, ok := tab.Lookup(&k, tab.Hash(&k))
		return ok
	}
	tab.Control(id, 0)
	tab.Release(id, true)
	if !at(299) {
		t.Fatal("forgotten at 299 s")
	}
	tab.Control(id, 299*hz)
	tab.Release(id, true)
	if !at(299 + 299) {
		t.Fatal("a connection did not restart its time")
	}
	if at(299 + 300) {
		t.Fatal("honoured after 300 s")
	}

	if id, err = tab.Insert(&k, tab.Hash(&k), 7, 300*time.Second, 1000*hz); err != nil {
		t.Fatal(err)
	}
	tab.Control(id, 1000*hz)
	if !at(1000 + 300 + 59) {
		t.Fatal("forgotten while it controls a connection")
	}
	if got := tab.Expires(id, 1300*hz); got != 60*time.Second {
		t.Fatalf("at its end it was given %v", got)
	}
	tab.Release(id, true)
	if at(1000 + 300 + 60) {
		t.Fatal("it outlived the 60 s without a connection")
	}

	id, _ = tab.Insert(&k, tab.Hash(&k), 7, 2*time.Second, 2000*hz)
	tab.Control(id, 2000*hz)
	at(2002)
	tab.Control(id, 2010*hz)
	if got := tab.Expires(id, 2010*hz); got != 60*time.Second {
		t.Fatalf("the next connection gave it %v, want 60 s: the kernel keeps the timeout that the end gave", got)
	}
}

func TestInvalidate(t *testing.T) {
	tab := newTable(t, 10, nil)
	k := Key{1, 1 << 40}
	old, _ := tab.Insert(&k, tab.Hash(&k), 1, time.Minute, 0)
	tab.Control(old, 0)
	tab.Assure(old)
	tab.Invalidate(old)
	if _, ok := tab.Lookup(&k, tab.Hash(&k)); ok {
		t.Fatal("an invalid template is found")
	}
	fresh, err := tab.Insert(&k, tab.Hash(&k), 2, time.Minute, 0)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := tab.Lookup(&k, tab.Hash(&k)); !ok || id != fresh {
		t.Fatal("its successor is not found")
	}
	if !tab.Invalid(old) || tab.Invalid(fresh) || tab.StateName(old) != "ASSURED" || tab.StateName(fresh) != "NONE" || tab.Dest(old) != 1 {
		t.Fatal("the two are mixed up")
	}
	tab.Release(old, true)
	for tab.Advance(60*hz, 10) {
	}
	if tab.Len() != 0 {
		t.Fatalf("%d are left", tab.Len())
	}
}

func TestAllocates(t *testing.T) {
	tab := newTable(t, 100, nil)
	now := uint32(0)
	f := FormFor(false, 10, netip.Addr{})
	fl := flow(6, "10.1.1.1:1", "192.168.10.101:80")
	if n := testing.AllocsPerRun(50, func() {
		for i := range uint64(200) {
			fl[0] = fl[0]&^0xffff | i
			k := keyOf(&f, fl, false)
			id, err := tab.Insert(&k, tab.Hash(&k), 1, time.Minute, now)
			if err != nil && tab.Evict(true) {
				id, err = tab.Insert(&k, tab.Hash(&k), 1, time.Minute, now)
			}
			if err != nil {
				t.Fatal(err)
			}
			tab.Control(id, now)
			tab.Release(id, true)
		}
		now += 1000 * hz
		for tab.Advance(now, 100) {
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func keyOf(f *Form, flow *[5]uint64, keepPort bool) (k Key) {
	f.Fill(&k, flow, keepPort)
	return k
}
