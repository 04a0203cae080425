package sched_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ulvs/ulvs/sched"
)

// oldest chooses the destination that was added first, of those that are usable.
type oldest struct{ dests []*sched.Dest }

func (s *oldest) Schedule(*sched.Request) *sched.Dest {
	for _, d := range slices.Backward(s.dests) {
		if d.Usable() {
			return d
		}
	}
	return nil
}

func (s *oldest) Added(dests []*sched.Dest, _ *sched.Dest)   { s.dests = dests }
func (s *oldest) Removed(dests []*sched.Dest, _ *sched.Dest) { s.dests = dests }
func (s *oldest) Updated(dests []*sched.Dest, _ *sched.Dest) { s.dests = dests }

func newOldest(dests []*sched.Dest, _ sched.Flags) sched.Scheduler { return &oldest{dests} }

// Once a process: a name is given once.
var registered = sched.Register("oldest", newOldest)

// A scheduler of one's own: "ipvsadm -A -t 192.0.2.1:80 -s oldest" takes it then.
func ExampleRegister() {
	// var registered = sched.Register("oldest", newOldest)
	fmt.Println(registered, sched.Known("oldest"))
	// Output: <nil> true
}

func TestRegister(t *testing.T) {
	for _, name := range []string{"", "rr", "oldest", "sixteen-bytes-xx"} {
		if err := sched.Register(name, newOldest); !errors.Is(err, sched.ErrName) {
			t.Errorf("%q: %v, want %v", name, err, sched.ErrName)
		}
	}
	var a, b sched.Dest
	a.Enlist(1, 0, 0)
	b.Enlist(1, 0, 0)
	s, err := sched.New("oldest", []*sched.Dest{&b, &a}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Schedule(&sched.Request{}); got != &a {
		t.Errorf("chose %p, want %p", got, &a)
	}
	a.Set(0, 0, 0)
	if got := s.Schedule(&sched.Request{}); got != &b {
		t.Errorf("with the first quiescent chose %p, want %p", got, &b)
	}
}
