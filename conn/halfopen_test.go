package conn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// known is what an oracle knows of a connection.
type known struct {
	id       ID
	n        int
	proto    uint8
	template uint32
	at       uint32 // when it came
	packets  int
	wasOpen  bool
	flow     packet.Flow
	serial   int
	last     uint32 // its last packet
}

// halfOpen says what a table of so many connections knows of one of which came so many.
func (k *known) halfOpen(most, came int) bool {
	if came-k.serial > most {
		return false
	}
	if k.proto == protoUDP {
		return k.packets <= 1
	}
	return !k.wasOpen
}

// The half-open connection that came first, against a list of all in the order in which they
// came.
func TestOldestHalfOpen(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { playHalfOpen(t, rand.New(rand.NewPCG(seed, 5))) })
	}
}

func playHalfOpen(t *testing.T, rng *rand.Rand) {
	const most = 60
	tab := newTable(t, most, nil)
	tab.ListHalfOpen(true, 0)
	var list []*known
	now := uint32(0)
	serial, came := 0, 0
	end := func(i int) {
		tab.End(list[i].id)
		list = slices.Delete(list, i, i+1)
	}
	for step := range 20_000 {
		switch op := rng.IntN(12); {
		case op < 5:
			k := &known{n: serial, proto: []uint8{protoTCP, protoUDP, protoSCTP}[rng.IntN(3)], template: rng.Uint32N(2) * 7, at: now}
			serial++
			k.flow = flow(k.n<<9|rng.IntN(2), k.proto)
			var err error
			if k.proto == protoTCP && rng.IntN(2) == 0 {
				k.id, _, err = tab.InsertSYN(&k.flow, tab.Hash(&k.flow), 1, k.template, now, 0)
			} else if k.id, err = tab.Insert(&k.flow, tab.Hash(&k.flow), 1, k.template, now, 0); err == nil {
				switch k.proto {
				case protoTCP:
					tab.TCP(k.id, packet.SYN, now)
				case protoSCTP:
					tab.SCTP(k.id, 1, now)
				default:
					tab.UDP(k.id, now)
				}
			}
			if errors.Is(err, ErrFull) != (len(list) == most) {
				t.Fatalf("step %d: %v with %d of %d", step, err, len(list), most)
			}
			if err == nil {
				k.packets, k.serial, k.last = 1, came, now
				came++
				list = append(list, k)
			}
		case len(list) == 0:
		case op < 8:
			k := list[rng.IntN(len(list))]
			k.packets++
			k.last = now
			switch k.proto {
			case protoTCP:
				flags := []uint8{packet.ACK, packet.RST, packet.SYN, packet.FIN}[rng.IntN(4)]
				k.wasOpen = tab.TCP(k.id, flags, now).Established || k.wasOpen
			case protoSCTP:
				k.wasOpen = tab.SCTP(k.id, []uint8{1, 10, 6, 0}[rng.IntN(4)], now).Established || k.wasOpen
			default:
				tab.Touched(k.id, now)
			}
		case op == 8:
			end(rng.IntN(len(list)))
		case op == 9:
			i := rng.IntN(len(list))
			tab.Hide(list[i].id)
			end(i)
		case op == 10:
			now += rng.Uint32N(hz)
		default:
			age := rng.Uint32N(2 * hz)
			// One that has sent its SYN again may be taken for an earlier one that was in its
			// slot. Among those that have not, the order is exact.
			want := slices.IndexFunc(list, func(k *known) bool { return k.packets == 1 && k.halfOpen(most, came) })
			got, ok := tab.OldestHalfOpen(now, age)
			if !ok {
				if got, ok = tab.OldestHalfOpen(now, 0); !ok {
					if want >= 0 {
						t.Fatalf("step %d: none is found, want one of tick %d", step, list[want].at)
					}
					break
				}
				if i := slices.IndexFunc(list, func(k *known) bool { return k.id == got }); now-list[i].last >= age {
					t.Fatalf("step %d: none of %d ticks, but there is one of tick %d", step, age, list[i].last)
				}
				break
			}
			i := slices.IndexFunc(list, func(k *known) bool { return k.id == got })
			if !list[i].halfOpen(1<<30, came) || now-list[i].last < age {
				t.Fatalf("step %d: %+v is no half-open one of %d ticks", step, list[i], age)
			}
			if list[i].packets == 1 && list[i].at != list[want].at {
				t.Fatalf("step %d: %+v, want %+v, of %d", step, *list[i], *list[want], came)
			}
			end(i)
		}
		sure, most, answered := 0, 0, 0
		for _, k := range list {
			switch {
			case k.halfOpen(1<<30, came) && k.packets == 1:
				sure++
			case k.halfOpen(1<<30, came):
				most++
			case k.proto == protoUDP:
				answered++
			}
		}
		if got := tab.HalfOpen(); got < sure || got > sure+most+answered {
			t.Fatalf("step %d: %d are half-open, want %d to %d", step, got, sure, sure+most+answered)
		}
	}
}

// However many come and go while none makes room, what is half-open is found, but for what
// came before as many as the table holds.
func TestHalfOpenBound(t *testing.T) {
	const most = 64
	tab := newTable(t, most, nil)
	tab.ListHalfOpen(true, 0)
	first := flow(2, protoTCP)
	id, _, err := tab.InsertSYN(&first, tab.Hash(&first), 1, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		f := flow((n+1)<<8, protoTCP)
		id, _, err := tab.InsertSYN(&f, tab.Hash(&f), 1, 0, uint32(n), 0)
		if err != nil {
			t.Fatal(err)
		}
		tab.End(id)
	}
	if got, ok := tab.OldestHalfOpen(2000, 0); ok {
		t.Fatalf("%d is found, which came before 1000 others", got)
	}
	if !tab.Live(id) || tab.HalfOpen() != 1 {
		t.Fatalf("live: %v, half-open: %d", tab.Live(id), tab.HalfOpen())
	}
}

// What comes while nothing is listed is found by a sweep, and goes before all that was listed:
// what was answered meanwhile does not, and its template hears of that.
func TestHalfOpenSwept(t *testing.T) {
	var answered []uint32
	tab, err := New(Options{Max: 64, Hz: hz, Expired: func(ID) {}, Answered: func(ct uint32) { answered = append(answered, ct) }})
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	for round := range 3 {
		var early, late []ID
		now := uint32(1000 * round)
		for n := range 20 {
			proto := []uint8{protoTCP, protoUDP}[n%2]
			f := flow((n+1)<<9, proto)
			id, err := tab.Insert(&f, tab.Hash(&f), 1, uint32(n), now, 0)
			if err != nil {
				t.Fatal(err)
			}
			if proto == protoTCP {
				tab.TCP(id, packet.SYN, now)
			} else {
				tab.UDP(id, now)
			}
			switch {
			case n >= 10:
				late = append(late, id)
			case n == 3:
				tab.Touched(id, now) // has talked
			case n == 4:
				tab.TCP(id, packet.ACK, now)
			default:
				early = append(early, id)
			}
			if n == 9 {
				now++
				tab.ListHalfOpen(true, now-1)
			}
		}
		answered = nil
		for i := range len(early) + len(late) {
			id, ok := tab.OldestHalfOpen(now+9, 0)
			at := slices.Index(early, id)
			if i >= len(early) {
				at = slices.Index(late, id)
			}
			if !ok || at < 0 || i >= len(early) && at != i-len(early) {
				t.Fatalf("round %d: number %d is %d (%v) of %v and %v", round, i, id, ok, early, late)
			}
			tab.End(id)
		}
		if id, ok := tab.OldestHalfOpen(now+9, 0); ok || tab.HalfOpen() != 0 {
			t.Fatalf("%d is found of %d", id, tab.HalfOpen())
		}
		if fmt.Sprint(answered) != "[3]" {
			t.Fatalf("templates that hear of an answer: %v", answered)
		}
		for id := range ID(tab.Slots()) {
			if tab.Live(id) {
				tab.End(id)
			}
		}
		tab.ListHalfOpen(false, now)
	}
}

// A daemon that adopts the table knows what is half-open, in the order of the last packets.
func TestHalfOpenAdopted(t *testing.T) {
	const most = 32
	memory, free, err := shtab.Memory(MemorySize(most))
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	records, free, err := shtab.Memory(RecordsSize(most))
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	o := Options{Max: most, Hz: hz, Memory: memory, Records: records, Expired: func(ID) {}}
	tab, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		f := flow((n+1)<<9, protoTCP)
		id, _, err := tab.InsertSYN(&f, tab.Hash(&f), 1, uint32(n%2), uint32(n), 0)
		if err != nil {
			t.Fatal(err)
		}
		if n%3 == 0 {
			tab.TCP(id, packet.ACK, uint32(n))
		}
	}
	o.Adopt, o.Now = true, 20
	if tab, err = New(o); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		if n%3 == 0 {
			continue
		}
		id, ok := tab.OldestHalfOpen(20, 0)
		if !ok || tab.Stamp(id) != uint32(n) {
			t.Fatalf("the oldest is of tick %d (%v), want %d", tab.Stamp(id), ok, n)
		}
		tab.End(id)
	}
	if id, ok := tab.OldestHalfOpen(20, 0); ok || tab.HalfOpen() != 0 {
		t.Fatalf("%d is half-open", id)
	}
}
