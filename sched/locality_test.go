package sched

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

// virtualNumber is a request for one of many virtual addresses.
func virtualNumber(n uint32, now time.Duration) *Request {
	r := &Request{Now: now}
	binary.BigEndian.PutUint32(r.Virtual[:], n)
	return r
}

func newDest(id uint32, weight int32) *Dest {
	d := &Dest{ID: id}
	d.Enlist(weight, 0, 0)
	return d
}

// A removed destination is held as long as an address remembers it, and serves
// that address again when it comes back.
func TestHeld(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		a, b := newDest(1, 100), newDest(2, 100)
		s, _ := New(name, []*Dest{a}, 0)
		s.Schedule(virtualNumber(1, 0))
		s.Schedule(virtualNumber(2, 0))
		if !a.Held() || b.Held() {
			t.Fatalf("%s: %v, %v after a was chosen", name, a.Held(), b.Held())
		}
		s.Added([]*Dest{b, a}, b)
		s.Removed([]*Dest{b}, a)
		if d := s.Schedule(virtualNumber(1, 0)); d != b {
			t.Fatalf("%s: chose a removed destination", name)
		}
		a.Bind(false, true)
		a.Enlist(100, 0, 0)
		s.Added([]*Dest{a, b}, a)
		// Address 2 still has a, although b is less loaded.
		if d := s.Schedule(virtualNumber(2, 0)); d != a {
			t.Fatalf("%s: forgot a destination that came back", name)
		}
		s.(Closer).Close()
		if a.Held() || b.Held() {
			t.Errorf("%s: closed, and holds", name)
		}
	}
}

// An address that was not used for a day is forgotten at the check that comes
// every half hour, and what it held is let go.
func TestExpiration(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		for _, tt := range []struct {
			set, wait time.Duration
			forgotten bool
		}{
			{0, 24*time.Hour - time.Second, false},
			{0, 24*time.Hour + 30*time.Minute, true},
			{61 * time.Minute, 65 * time.Minute, false}, // is old, but there was no check since
			{61 * time.Minute, 91 * time.Minute, true},
			{7 * 24 * time.Hour, 6 * 24 * time.Hour, false},
		} {
			a := newDest(1, 100)
			s, _ := New(name, []*Dest{a}, 0)
			if tt.set != 0 {
				s.(Forgetful).SetExpiration(tt.set)
			}
			const start = 1000 * time.Hour
			s.Schedule(virtualNumber(1, start))
			a.Enlist(0, 0, 0) // so that the next request remembers nothing
			s.Schedule(virtualNumber(2, start+tt.wait))
			if a.Held() == tt.forgotten {
				t.Errorf("%s: expiration %v, after %v: held %v", name, tt.set, tt.wait, a.Held())
			}
		}
	}
}

// A clock that starts again, as a counter of ticks does when it is full, must
// not make anything last for ever.
func TestClockBack(t *testing.T) {
	a := newDest(1, 100)
	s, _ := New("lblc", []*Dest{a}, 0)
	s.Schedule(virtualNumber(1, 5000*time.Hour))
	a.Enlist(0, 0, 0)
	s.Schedule(virtualNumber(2, time.Minute))
	if !a.Held() {
		t.Fatal("forgotten at once")
	}
	s.Schedule(virtualNumber(2, 26*time.Hour))
	if a.Held() {
		t.Fatal("remembered for ever")
	}
}

// A table over its size sheds old places, and only until it is small enough.
func TestShed(t *testing.T) {
	a := newDest(1, 1<<30)
	s, _ := New("lblc", []*Dest{a}, 0)
	l := &s.(*lblc).locality
	const over = 3000
	start := time.Hour
	for n := range uint32(localityMax + over) {
		s.Schedule(virtualNumber(n, start))
	}
	for n := range uint32(5000) {
		s.Schedule(virtualNumber(n, start+4*time.Minute))
	}
	s.Schedule(virtualNumber(0, start+5*time.Minute))
	if l.entries != localityMax+over || a.held != l.entries {
		t.Fatalf("%d places after five minutes, %d held", l.entries, a.held)
	}
	s.Schedule(virtualNumber(0, start+6*time.Minute))
	// It stops after the bucket in which it has shed 4/3 of what is too many.
	if gone := localityMax + over - l.entries; gone < over*4/3 || gone > over*4/3+60 || a.held != l.entries {
		t.Fatalf("%d places gone, %d held of %d", gone, a.held, l.entries)
	}
	for n := range uint32(5000) {
		if l.find(virtualNumber(n, 0)) == nil {
			t.Fatalf("place %d was used two minutes ago and is gone", n)
		}
	}
}

// Clients that may address anything make no more be remembered than there is room for,
// however they choose: all over, or for one bucket. What is used stays.
func TestLocalityBound(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		for _, aimed := range []bool{false, true} {
			a, b := newDest(1, 100), newDest(2, 100)
			s, _ := New(name, []*Dest{a, b}, 0)
			var l *locality
			switch s := s.(type) {
			case *lblc:
				l = &s.locality
			case *lblcr:
				l = &s.locality
			}
			used := s.Schedule(virtualNumber(1, 0))
			used.Bind(false, false) // so that who is forgotten would be given the other
			bucket, most := localityBucket(virtualNumber(1, 0)), localitySize*localityChain
			if aimed {
				most = localityChain
			}
			for n, now := uint32(2), time.Duration(0); n < 150_000; n++ {
				r := virtualNumber(n, 0)
				if aimed && localityBucket(r) != bucket {
					continue
				}
				now += time.Microsecond
				r.Now = now
				s.Schedule(r)
				if n%64 == 0 || aimed {
					one := virtualNumber(1, now)
					if s.Schedule(one); l.find(one) == nil || !slices.Contains(l.find(one).servers, used) {
						t.Fatalf("%s: after %d others an address that is used is forgotten", name, n)
					}
				}
			}
			count := 0
			for _, p := range l.buckets {
				for ; p != nil; p = p.next {
					count++
				}
			}
			if count != l.entries || count > most || count < most*9/10 {
				t.Errorf("%s, aimed %v: %d are remembered and %d counted, want at most %d", name, aimed, count, l.entries, most)
			}
			s.(Closer).Close()
			if a.Held() || b.Held() {
				t.Errorf("%s: closed, and holds", name)
			}
		}
	}
}
