package director_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
)

func adds(k ulvs.ServiceKey, servers ...int) (list []ulvs.Change) {
	list = append(list, ulvs.Change{Verb: ulvs.VerbAddService, Service: ulvs.Service{ServiceKey: k, Scheduler: "rr"}})
	for _, i := range servers {
		list = append(list, ulvs.Change{Verb: ulvs.VerbAddDestination, Key: k, Destination: dest(k, i, 1)})
	}
	return list
}

func syn(t *testing.T, client int, port uint16) dataplane.Frame {
	p := pkt{src: fmt.Sprintf("10.1.1.%d:1000", client%250+1), dst: fmt.Sprintf("%s:%d", vip, port), proto: "tcp", flags: "S"}
	return dataplane.Frame{Data: p.frame(t), In: eth0}
}

// A batch is one claim, which has all that it adds before the first is there; and between
// any two of its changes packets are carried, by what was changed until then. None waits
// for more than one change: each is delivered here from within the batch, which would wait
// for ever if the batch held the forwarding lock.
func TestBatch(t *testing.T) {
	b := emptyBed(t)
	b.begin(director.Options{}, b.plane)
	var changes []ulvs.Change
	for i := range uint16(100) {
		changes = append(changes, adds(tcp(1000+i), 0)...)
	}
	n := 0
	b.must(b.Batch(changes, func(i int, err error) bool {
		b.must(err)
		if i != n {
			t.Fatalf("answer %d is called the answer to %d", n, i)
		}
		n++
		if claims, times := b.plane.Claims(); times != 1 || len(claims.Services) != 100 {
			t.Fatalf("at change %d, %d claims of %d services", i, times, len(claims.Services))
		}
		there, next := uint16(1000+i/2), uint16(1000+i/2+1)
		if got := b.plane.Deliver(syn(t, i, there))[0]; i%2 == 1 && got.Hop == nil {
			t.Fatalf("at change %d, a packet to its service is %v", i, got.Verdict)
		}
		if got := b.plane.Deliver(syn(t, i, next))[0]; got.Hop != nil {
			t.Fatalf("at change %d, a packet to the next service is sent to %v", i, got.Hop)
		}
		// And commands come between.
		if _, err := b.Service(tcp(there)); err != nil {
			t.Fatal(err)
		}
		b.must(b.SetTimeouts(ulvs.Timeouts{UDP: 1e9 * 60}))
		return true
	}))
	if n != len(changes) {
		t.Errorf("%d answers to %d changes", n, len(changes))
	}
}

// Each change of a batch is refused or carried out as it would be alone, and in the end
// what is claimed is what is served: at random, against a director that gets one after the
// other.
func TestBatchIsItsChanges(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newTwins(t, seed)
			for range 40 {
				var changes []ulvs.Change
				for range 1 + w.rng.IntN(30) {
					changes = append(changes, w.change())
				}
				var got, want []string
				w.anew.must(w.anew.Batch(changes, func(_ int, err error) bool {
					got = append(got, fmt.Sprint(err))
					return true
				}))
				for i := range changes {
					want = append(want, fmt.Sprint(changes[i].Apply(w.steady)))
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%v:\n%q\nand one by one\n%q", changes, got, want)
				}
				w.same("then", w.listing)
				w.same("claimed", claimed)
				if w.rng.IntN(4) == 0 {
					w.restart()
					w.same("after a restart", w.listing)
				}
			}
		})
	}
}

// claimed is what the plane was told last, in some order.
func claimed(b *bed) string {
	c, _ := b.plane.Claims()
	var list []string
	for _, s := range c.Services {
		s.Service = 0 // in a batch, what is refused has had a number
		list = append(list, fmt.Sprint(s))
	}
	for _, m := range c.Marks4 {
		list = append(list, fmt.Sprint("4 ", m))
	}
	for _, m := range c.Marks6 {
		list = append(list, fmt.Sprint("6 ", m))
	}
	slices.Sort(list)
	return strings.Join(list, "\n")
}

// change is one that a line of ipvsadm -R might ask for.
func (w *twins) change() ulvs.Change {
	r, k := w.rng, w.key()
	k.Port += pick(r, uint16(0), 1, 2)
	if k.Mark != 0 {
		k.Port = 0
	}
	s := persistent(k, pick(r, "rr", "wrr", "wlc", "nosuch"), 0)
	if r.IntN(10) == 0 {
		s.ServiceKey, s.Persistence.Timeout = tcp(21), 300e9
	}
	d := dest(k, r.IntN(4), int32(r.IntN(4)))
	return ulvs.Change{Verb: pick(r, ulvs.VerbAddService, ulvs.VerbAddService, ulvs.VerbAddService, ulvs.VerbEditService,
		ulvs.VerbDeleteService, ulvs.VerbDeleteService, ulvs.VerbAddDestination, ulvs.VerbAddDestination, ulvs.VerbEditDestination,
		ulvs.VerbDeleteDestination, ulvs.VerbZero, ulvs.VerbZeroAll, pick(r, ulvs.VerbClear, ulvs.VerbZeroAll)),
		Service: s, Key: s.ServiceKey, Destination: d}
}

// A batch that is killed leaves each of its changes or none of it, and all that were
// answered.
func TestBatchKilled(t *testing.T) {
	defer func(n int) { *director.JournalSize = n }(*director.JournalSize)
	*director.JournalSize = 8 << 10 // it grows meanwhile
	b := emptyBed(t)
	keeper := dataplanetest.NewKeeper(b.plane)
	b.begin(director.Options{}, keeper)
	var changes []ulvs.Change
	for i := range uint16(60) {
		changes = append(changes, adds(tcp(1000+i), 0, 1)...)
	}
	b.must(b.Batch(changes, func(n int, err error) bool {
		b.must(err)
		if n%7 == 0 {
			after := emptyBed(t)
			after.begin(director.Options{}, keeper.Clone(after.plane))
			expect(t, fmt.Sprint("killed after change ", n), words(after), words(b))
			if got := strings.Count(words(after), "-t"); got != n/3+1 {
				t.Fatalf("%d services after %d changes", got, n+1)
			}
		}
		return n < 150
	}))
	if got := strings.Count(words(b), "-t"); got != 51 {
		t.Errorf("a batch that nobody waits for any more has made %d services", got)
	}
	if claims, _ := b.plane.Claims(); len(claims.Services) != 51 {
		t.Errorf("and claims %d", len(claims.Services))
	}
}

// What cannot be claimed is not served: each change that needs it is refused, and the
// others are carried out.
func TestBatchUnclaimed(t *testing.T) {
	b := emptyBed(t)
	b.begin(director.Options{}, b.plane)
	b.must(b.AddService(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}))
	broken := errors.New("no nftables")
	b.plane.FailClaims(broken)
	changes := slices.Concat(adds(tcp(81)), []ulvs.Change{{Verb: ulvs.VerbAddDestination, Key: tcp(80), Destination: dest(tcp(80), 0, 1)}})
	b.must(b.Batch(changes, func(n int, err error) bool {
		refused := errors.Is(err, broken) && strings.Contains(err.Error(), "plane cannot keep the host from the services' packets: no nftables")
		if refused != (n == 0) {
			t.Errorf("change %d: %v", n, err)
		}
		return true
	}))
	if got := words(b); got != fmt.Sprintf("%v %s\n", tcp(80), serverAddr(0)) {
		t.Errorf("there is\n%s", got)
	}
	b.plane.FailClaims(nil)
	b.must(b.AddService(ulvs.Service{ServiceKey: tcp(81), Scheduler: "rr"}))
}

// slowClaims is a plane whose Claim takes as long as the test wants.
type slowClaims struct {
	*dataplanetest.Plane
	begun   chan struct{}
	proceed chan struct{}
}

func (s *slowClaims) Claim(c dataplane.Claims) error {
	s.begun <- struct{}{}
	<-s.proceed
	return s.Plane.Claim(c)
}

// Commands that wait while another's claim is under way share the next: a hundred clients
// take two. Each is answered when the plane has heard of its service, and not before.
func TestClaimsAreShared(t *testing.T) {
	const clients = 100
	b := emptyBed(t)
	plane := &slowClaims{b.plane, make(chan struct{}), make(chan struct{})}
	b.begin(director.Options{}, plane)
	var all sync.WaitGroup
	add := func(port uint16) {
		all.Go(func() {
			if err := b.AddService(ulvs.Service{ServiceKey: tcp(port), Scheduler: "rr"}); err != nil {
				t.Error(err)
			}
			claims, _ := b.plane.Claims()
			if !slices.ContainsFunc(claims.Services, func(c dataplane.Claim) bool { return c.Port == port }) {
				t.Errorf("port %d is answered before it is claimed", port)
			}
		})
	}
	add(1)
	<-plane.begun // a first round, which the others are not in
	for i := range uint16(clients) {
		add(1000 + i)
	}
	director.AwaitAnnounced(b.Director, clients+1)
	plane.proceed <- struct{}{}
	<-plane.begun
	plane.proceed <- struct{}{}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	more := 0
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-plane.begun: // of one that had announced, and not yet joined
			more++
			plane.proceed <- struct{}{}
		}
	}
	if _, rounds := b.plane.Claims(); rounds != 2+more || more > 3 {
		t.Errorf("%d services took %d claims", clients+1, rounds)
	}
}
