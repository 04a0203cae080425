package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	soaks     = flag.Bool("soak", false, "TestSoak: an hour of what may happen to a daemon, which needs the machine alone")
	soakFor   = flag.Duration("soak-for", time.Hour, "how long TestSoak lasts on a plane")
	soakSeed  = flag.Uint64("soak-seed", 0, "what TestSoak draws its events from; 0 is the clock")
	soakPlane = flag.String("soak-plane", "xdp,afpacket", "the planes of TestSoak")
	soakOnly  = flag.String("soak-only", "", "the events of TestSoak, by a regular expression")
	soakLive  = flag.Bool("soak-live", true, "TestSoak also removes, renames and moves an interface")
)

// What may happen to a daemon happens in a random order: it is killed, ended and replaced;
// commands, starts that are refused, floods, and changes of its interfaces. Established
// connections go on, new clients are served after each event, nothing that a command was
// told is forgotten, and in the end a daemon holds what one held after a sixth of the time, and
// still does when it has lived for a twelfth.
func TestSoak(t *testing.T) {
	if !*soaks {
		t.Skip("make soak has the machine to itself")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano() % 1e9)
	}
	for plane := range strings.SplitSeq(*soakPlane, ",") {
		t.Run(plane, func(t *testing.T) {
			t.Logf("again: make soak SOAK=\"-soak-seed %d -soak-for %v -soak-plane %s -soak-only '%s' -soak-live=%v\"",
				seed, *soakFor, plane, *soakOnly, *soakLive)
			newSoak(t, plane, seed).run(*soakFor)
		})
	}
}

// soakEvent is something that may happen.
type soakEvent struct {
	name  string
	odds  int    // how often, beside the others
	plane string // or "": both
	live  bool   // an interface comes and goes
	// happen prints what it does before it does it, and returns when it is over.
	happen func(k *soak, r *rand.Rand)
}

// events are those that happen here.
func (k *soak) events() []soakEvent {
	only, err := regexp.Compile(*soakOnly)
	if err != nil {
		k.t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(soakEvents), func(e soakEvent) bool {
		return e.plane != "" && e.plane != k.plane || e.live && !*soakLive || !only.MatchString(e.name)
	})
}

// run is the walk: events whose kind and figures come of the seed and their number alone.
func (k *soak) run(lasts time.Duration) {
	k.begin()
	events := k.events()
	var early *soakMark
	n := uint64(1)
	for ; ; n++ {
		age := time.Since(k.began)
		if early == nil && age >= lasts/6 {
			early = k.mark(events)
		}
		if age >= lasts {
			break
		}
		k.drawn(n, events)
	}
	late := k.mark(events)
	lasting := slices.DeleteFunc(slices.Clone(events), soakEvent.replaces)
	for began := time.Now(); time.Since(began) < lasts/12; n++ {
		k.drawn(n, lasting)
	}
	k.tidy()
	old := k.quiet()
	k.load.stop()
	for _, e := range events {
		k.t.Logf("%-24s %d times", e.name, k.happened[e.name])
	}
	k.t.Log(k.load)
	k.t.Logf("after a sixth of the time:   %v", early)
	k.t.Logf("in the end:                  %v", late)
	k.t.Logf("a twelfth later, the same one: %v", old)
	early.compare(k.t, "a sixth of the time and the end", late)
	late.compareOlder(k.t, "the end and the same daemon a twelfth of the time later", old)
}

// replaces reports whether another daemon takes the place of the one that runs.
func (e soakEvent) replaces() bool { return strings.HasPrefix(e.name, "replace") }

// drawn lets the n-th event happen.
func (k *soak) drawn(n uint64, events []soakEvent) {
	k.t.Helper()
	var all []soakEvent
	for _, e := range events {
		for range e.odds {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		k.t.Fatalf("no event of %s matches %q", k.plane, *soakOnly)
	}
	r := rand.New(rand.NewPCG(k.seed, n))
	e := all[r.IntN(len(all))]
	k.event(fmt.Sprintf("%d ", n), e, r)
	k.happened[e.name]++
}

// event lets something happen, and looks whether everything is well after it.
func (k *soak) event(number string, e soakEvent, r *rand.Rand) {
	k.t.Helper()
	k.said = fmt.Sprintf("%s%s (%v)", number, e.name, time.Since(k.began).Round(time.Second/10))
	k.load.during(k.said)
	e.happen(k, r)
	k.load.served(k)
	k.asTold()
	k.load.judge(k.t)
	if k.t.Failed() && k.load.dead() {
		k.t.FailNow()
	}
}

// note prints what an event does.
func (k *soak) note(format string, args ...any) {
	k.t.Helper()
	k.t.Log(k.said + ": " + fmt.Sprintf(format, args...))
}

// markSeed is what the events before a mark take their figures from: they are the same
// before each.
const markSeed = 1

// mark is what a daemon is like after the same short life: what services were added is
// removed, it is killed and begun anew with the same options, each event that does not
// replace it happens once, and all becomes quiet.
func (k *soak) mark(events []soakEvent) *soakMark {
	k.t.Helper()
	k.tidy()
	k.event("mark: ", soakEvent{name: "replaced", happen: func(k *soak, r *rand.Rand) {
		k.note("the daemon is killed, and begun as at every mark")
		k.replaceKilled(0, k.startOptions("on"))
	}}, nil)
	for i, e := range events {
		if !e.replaces() {
			k.event("mark: ", e, rand.New(rand.NewPCG(markSeed, uint64(i))))
		}
	}
	k.tidy()
	return k.quiet()
}
