package director_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
)

// growing is a plane that is looked at whenever its journal is replaced, as a process
// would find it that comes after a kill just then.
type growing struct {
	*dataplanetest.Keeper
	at      func(step string)
	refused error
}

func (g *growing) Replace(part string, size int, fill func([]byte) error) error {
	if g.refused != nil {
		return g.refused
	}
	g.at("begun")
	err := g.Keeper.Replace(part, size, func(block []byte) error {
		g.at("made")
		err := fill(block)
		g.at("written")
		return err
	})
	g.at("replaced")
	return err
}

// A journal grows with what there is, and a process that is killed at any step of that
// leaves what it had answered, or the command under way too, and never less.
func TestJournalGrows(t *testing.T) {
	defer func(n int) { *director.JournalSize = n }(*director.JournalSize)
	*director.JournalSize = 2 << 10
	b := emptyBed(t)
	var answered, now string
	steps := map[string]int{}
	g := &growing{Keeper: dataplanetest.NewKeeper(b.plane)}
	g.at = func(step string) {
		steps[step]++
		after := emptyBed(t)
		after.begin(director.Options{}, g.Keeper.Clone(after.plane))
		if got := words(after); !after.Adopted() || got != answered && got != now {
			t.Errorf("killed when the journal was %s, adopted %v:\n%sand not\n%s", step, after.Adopted(), got, answered)
		} else if step == "replaced" && got != now {
			t.Errorf("a journal that was replaced lacks the command for which it was:\n%s", got)
		}
	}
	b.begin(director.Options{}, g)
	model := map[string]string{} // what words says of it
	do := func(k ulvs.ServiceKey, more string, command func() error) {
		t.Helper()
		answered = listed(model)
		model[fmt.Sprint(k)] = more + model[fmt.Sprint(k)] // newest first
		now = listed(model)
		b.must(command())
	}
	for i := range uint16(120) {
		k := tcp(1000 + i)
		do(k, "", func() error { return b.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}) })
		for j := range 3 {
			do(k, " "+serverAddr(j), func() error { return b.AddDestination(k, dest(k, j, 1)) })
		}
	}
	if words(b) != now {
		t.Fatalf("there is\n%snot\n%s", words(b), now)
	}
	for _, step := range []string{"begun", "made", "written", "replaced"} {
		if steps[step] < 3 {
			t.Errorf("the journal was %s %d times", step, steps[step])
		}
	}
	after := emptyBed(t)
	after.begin(director.Options{}, g.Keeper.Clone(after.plane))
	expect(t, "after all", words(after), words(b))
}

// words is what services and real servers there are, a service a line.
func words(b *bed) string {
	services, err := b.Services()
	b.must(err)
	all := map[string]string{}
	for _, s := range services {
		more := ""
		for _, d := range s.Destinations {
			more += fmt.Sprint(" ", d.Addr)
		}
		all[fmt.Sprint(s.ServiceKey)] = more
	}
	return listed(all)
}

func listed(all map[string]string) (text string) {
	for _, k := range slices.Sorted(maps.Keys(all)) {
		text += k + all[k] + "\n"
	}
	return text
}

// Where no larger journal can be had, the present one does as long as it is large enough;
// then the command says why it will be forgotten, and the next one that is recorded again
// has everything.
func TestJournalCannotGrow(t *testing.T) {
	defer func(n int) { *director.JournalSize = n }(*director.JournalSize)
	*director.JournalSize = 4 << 10
	b := emptyBed(t)
	full := errors.New("no memory is left")
	g := &growing{Keeper: dataplanetest.NewKeeper(b.plane), refused: full, at: func(string) {}}
	b.begin(director.Options{}, g)
	n := uint16(0)
	for ; n < 1000; n++ {
		if err := b.AddService(ulvs.Service{ServiceKey: tcp(1000 + n), Scheduler: "rr"}); err != nil {
			if !errors.Is(err, full) || !strings.Contains(err.Error(), "the journal of commands is full, and cannot grow: ") {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 5 || n == 1000 {
		t.Fatalf("%d services have found room", n)
	}
	again := func() string {
		after := emptyBed(t)
		after.begin(director.Options{}, g.Keeper.Clone(after.plane))
		return words(after)
	}
	// A snapshot takes a little more than the commands did.
	gone := uint16(0)
	for ; b.DeleteService(tcp(1000+gone)) != nil; gone++ {
		if gone == n-1 {
			t.Fatal("nothing finds room any more")
		}
	}
	expect(t, "with fewer services", again(), words(b))
	for n = 0; b.AddService(ulvs.Service{ServiceKey: tcp(n), Scheduler: "rr"}) == nil; n++ {
		if n == 1000 {
			t.Fatal("it is never full")
		}
	}
	g.refused = nil
	b.must(b.AddService(ulvs.Service{ServiceKey: tcp(2000), Scheduler: "rr"}))
	expect(t, "with memory again", again(), words(b))
}
