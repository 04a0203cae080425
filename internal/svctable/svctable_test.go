package svctable

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func key(addr string, proto uint8, port uint16) Key {
	return KeyOf(netip.MustParseAddr(addr), proto, port)
}

func TestLookup(t *testing.T) {
	tab := New[string]()
	add := func(name string, k Key) { tab.Add(k, &name) }
	mark := func(name string, m uint32, ipv6 bool) { tab.AddMark(m, ipv6, &name) }
	add("web", key("192.0.2.1", 6, 80))
	add("web6", key("2001:db8::1", 6, 80))
	add("ftp", key("192.0.2.2", 6, 21))
	add("all", key("192.0.2.3", 6, 0))
	add("all-udp", key("192.0.2.2", 17, 0))
	mark("shop", 10, false)
	mark("shop6", 10, true)
	for _, tt := range []struct {
		k    Key
		mark uint32
		want string
	}{
		{key("192.0.2.1", 6, 80), 0, "web"},
		{key("192.0.2.1", 6, 80), 10, "shop"},
		{key("192.0.2.1", 6, 80), 11, "web"},
		{key("192.0.2.9", 17, 53), 10, "shop"},
		{key("2001:db8::9", 6, 443), 10, "shop6"},
		{key("2001:db8::1", 6, 80), 0, "web6"},
		{key("192.0.2.1", 6, 81), 0, ""},
		{key("192.0.2.1", 17, 80), 0, ""},
		{key("192.0.2.2", 6, 21), 0, "ftp"},
		{key("192.0.2.2", 6, 20), 0, "ftp"},
		{key("192.0.2.2", 6, 1024), 0, "ftp"},
		{key("192.0.2.2", 6, 1023), 0, ""},
		{key("192.0.2.2", 17, 2000), 0, "all-udp"},
		{key("192.0.2.3", 6, 22), 0, "all"},
		{key("192.0.2.3", 17, 22), 0, ""},
	} {
		got := ""
		if s := tab.Lookup(tt.k, tt.mark); s != nil {
			got = *s
		}
		if got != tt.want {
			t.Errorf("%v with mark %d: %q, want %q", tt.k, tt.mark, got, tt.want)
		}
	}
	tab.Remove(key("192.0.2.3", 6, 0))
	tab.RemoveMark(10, false)
	if tab.Lookup(key("192.0.2.3", 6, 22), 10) != nil {
		t.Error("a removed service is found")
	}
	if got := tab.Marks(true); !slices.Equal(got, []uint32{10}) {
		t.Errorf("marks %v", got)
	}
}

// What was found last is remembered, and has to be forgotten when services change: a
// slow look-up by the same rules, which remembers nothing, says the same.
func TestRemembers(t *testing.T) {
	type marked struct {
		mark uint32
		ipv6 bool
	}
	tab := New[int]()
	byKey, byMark := map[Key]*int{}, map[marked]*int{}
	slow := func(k Key, mark uint32) *int {
		ports := []uint16{k.Port, 0}
		if FTPData(k.Port, k.Proto) {
			ports = []uint16{k.Port, ftpPort, 0}
		}
		if s := byMark[marked{mark, k.IPv6}]; s != nil {
			return s
		}
		for _, k.Port = range ports {
			if s := byKey[k]; s != nil {
				return s
			}
		}
		return nil
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for n := range 20_000 {
		k := key([]string{"192.0.2.1", "fd00::1"}[rng.IntN(2)], 6, []uint16{0, 21, 80, 2000}[rng.IntN(4)])
		m := marked{1 + rng.Uint32N(2), k.IPv6}
		switch s := new(int); rng.IntN(16) {
		case 0:
			tab.Add(k, s)
			byKey[k] = s
		case 1:
			if byKey[k] != nil {
				tab.Remove(k)
				delete(byKey, k)
			}
		case 2:
			tab.AddMark(m.mark, m.ipv6, s)
			byMark[m] = s
		case 3:
			tab.RemoveMark(m.mark, m.ipv6)
			delete(byMark, m)
		default:
			mark := rng.Uint32N(3)
			if got, want := tab.Lookup(k, mark), slow(k, mark); got != want {
				t.Fatalf("look-up %d, of %v with mark %d: %p, and not %p", n, k, mark, got, want)
			}
		}
	}
}

// All yields each service once, those of marks last.
func TestAll(t *testing.T) {
	tab := New[int]()
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[int]bool{}
	for i := range 500 {
		want[i] = true
		if i%3 == 0 {
			tab.AddMark(uint32(i)+1, i%2 == 0, &i)
		} else {
			tab.Add(key("192.0.2.1", 6, uint16(rng.Uint32())), &i)
		}
	}
	marks := false
	for s := range tab.All() {
		if *s%3 == 0 {
			marks = true
		} else if marks {
			t.Fatal("a service with an address after one with a mark")
		}
		delete(want, *s)
	}
	if len(want) > 5 { // random ports may have met
		t.Fatalf("%d were not listed", len(want))
	}
}

func TestAllocates(t *testing.T) {
	tab := New[int]()
	tab.Add(key("192.0.2.1", 6, 0), new(int))
	tab.Add(key("192.0.2.2", 6, 21), new(int))
	k := key("192.0.2.1", 6, 2000)
	if n := testing.AllocsPerRun(100, func() { tab.Lookup(k, 7) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
