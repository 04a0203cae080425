package sched

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// clientNumber is a request of one of many clients.
func clientNumber(n uint32, proto uint8, port uint16) *Request {
	r := &Request{Proto: proto, ClientPort: port}
	binary.BigEndian.PutUint32(r.Client[:], n*2654435761)
	return r
}

func chosen(s Scheduler, proto uint8, port uint16) (ids string) {
	for n := range uint32(300) {
		if d := s.Schedule(clientNumber(n, proto, port)); d != nil {
			ids += fmt.Sprint(d.ID)
		} else {
			ids += "-"
		}
	}
	return ids
}

// Flags mean the same whether they were there from the start or came later,
// and ports count only in protocols that have them.
func TestFlags(t *testing.T) {
	dests := []*Dest{newDest(1, 3), newDest(2, 9), newDest(3, 5), newDest(4, 1)}
	dests[1].Set(0, 0, 0)
	for _, name := range []string{"sh", "mh"} {
		seen := map[string]Flags{}
		for flags := range Flags(4) {
			s, _ := New(name, dests, flags)
			later, _ := New(name, dests, 3-flags)
			later.(Flagged).SetFlags(flags)
			got := chosen(s, 6, 1234)
			if got != chosen(later, 6, 1234) {
				t.Errorf("%s: flags %d from the start and later differ", name, flags)
			}
			if other, ok := seen[got]; ok {
				t.Errorf("%s: flags %d choose as %d", name, flags, other)
			}
			seen[got] = flags
			if flags&Flag2 != 0 && chosen(s, 50, 1234) != chosen(s, 50, 0) {
				t.Errorf("%s: ESP has no ports", name)
			}
		}
	}
}

// With fallback a client without a server left is refused, and does not make
// the search endless.
func TestNobodyLeft(t *testing.T) {
	dests := []*Dest{newDest(1, 3), newDest(2, 4)}
	for _, name := range []string{"sh", "mh"} {
		s, _ := New(name, dests, Flag1|Flag2)
		dests[0].Set(0, 0, 0)
		s.Updated(dests, dests[0])
		if d := s.Schedule(clientNumber(1, 6, 1)); d != dests[1] {
			t.Errorf("%s: one left, and not chosen", name)
		}
		dests[1].Set(0, 0, 0)
		s.Updated(dests, dests[1])
		if s.Schedule(clientNumber(1, 6, 1)) != nil {
			t.Errorf("%s: chose a quiescent server", name)
		}
		dests[0].Set(3, 0, 0)
		dests[1].Set(4, 0, 0)
	}
}

// mh has no table for more destinations than places. A removed one is not
// chosen even then.
func TestMHTooMany(t *testing.T) {
	var dests []*Dest
	for i := range uint32(mhSize + 1) {
		d := newDest(i, 1)
		binary.BigEndian.PutUint32(d.Addr[:], i)
		dests = append(dests, d)
	}
	s, _ := New("mh", dests, 0)
	if s.Schedule(clientNumber(1, 6, 1)) != nil {
		t.Error("chose without a table")
	}
	s.Removed(dests[1:], dests[0])
	d := s.Schedule(clientNumber(1, 6, 1))
	if d == nil {
		t.Fatal("no choice of as many as the table has")
	}
	s.Added(dests, dests[0])
	rest := []*Dest{newDest(9999, 1)}
	for _, e := range dests {
		if e != d {
			rest = append(rest, e)
		}
	}
	s.Removed(rest, d)
	if s.Schedule(clientNumber(1, 6, 1)) == d {
		t.Error("chose a removed destination")
	}
}

// What the choice costs must not depend on how many there are for rr, wrr and
// the hashes; the others look at all.
func BenchmarkSchedule(b *testing.B) {
	for _, name := range Names() {
		for _, n := range []uint32{4, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				var dests []*Dest
				for i := range n {
					d := newDest(i, 1)
					binary.BigEndian.PutUint32(d.Addr[:], i)
					dests = append(dests, d)
				}
				s, _ := New(name, dests, 0)
				r := clientNumber(1, 6, 1)
				b.ReportAllocs()
				for b.Loop() {
					s.Schedule(r)
				}
			})
		}
	}
}
