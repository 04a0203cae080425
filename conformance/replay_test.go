package conformance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// round is a recording to play again, on a theatre like that of as.
type round struct {
	name string
	Recording
	as      *Theatre
	compare func(want, got []string) string

	diff string // what differed, "" if nothing did
	err  error
}

const (
	// together is how many scenarios play at once. They mostly wait, but too
	// many would make one another late.
	together = 12
	// alone is how often a scenario that differed is played alone.
	alone = 3
	// alonePatience is how long packets may take then, every second time: with it, a scenario of many packets
	// of which nothing comes is late by itself.
	alonePatience = 100 * time.Millisecond
	// aloneTime bounds that for all of them: what is wrong with every scenario
	// need not be tried for ever.
	aloneTime = 5 * time.Minute
)

// replay plays all rounds, the first ones first, and wants the recorded
// answers. What a scenario says is
// deterministic, on an idle machine: on a busy one, a packet or a second may
// come late. So what differs, or fails, in company is played alone before it
// counts. What then agrees was a slip of time, and is logged.
func replay(t *testing.T, rounds []*round) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	inCompany(ctx, t, rounds)
	slips, until := 0, time.Now().Add(aloneTime)
	for _, o := range rounds {
		t.Run(o.name, func(t *testing.T) {
			for n := 1; n <= alone && !o.good() && !errors.Is(o.err, lab.ErrPrivileges) && time.Now().Before(until); n++ {
				before := o.complaint()
				o.playAlone(ctx, n%2 == 0)
				if o.good() {
					slips++
					t.Logf("played alone, %d. time, it agrees; before it did not: a slip of time, or a race:\n%s", n, before)
				}
			}
			if errors.Is(o.err, lab.ErrPrivileges) {
				t.Skipf("%v: run as root, or allow user namespaces", o.err)
			}
			if !o.good() {
				t.Error(o.complaint())
			}
		})
	}
	t.Logf("%d scenarios, %d slips of time", len(rounds), slips)
}

func (o *round) good() bool { return o.diff == "" && o.err == nil }

func (o *round) complaint() string {
	if o.err != nil {
		return o.err.Error()
	}
	return "ulvs (+) and the kernel (-) differ:\n" + o.diff
}

// inCompany plays the rounds at the same time. t.Parallel would only play as
// many at once as there are CPUs.
func inCompany(ctx context.Context, t *testing.T, rounds []*round) {
	work := make(chan *round)
	var wg sync.WaitGroup
	for range min(together, len(rounds)) {
		wg.Go(func() {
			theatres := make(map[*Theatre]*Theatre)
			for o := range work {
				if theatres[o.as] == nil {
					theatres[o.as] = &Theatre{Subject: o.as.Subject, Options: o.as.Options}
				}
				o.play(ctx, theatres[o.as])
			}
			for _, theatre := range theatres {
				if err := theatre.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, o := range rounds {
		work <- o
	}
	close(work)
	wg.Wait()
}

func (o *round) playAlone(ctx context.Context, patient bool) {
	theatre := &Theatre{Subject: o.as.Subject, Options: o.as.Options}
	if patient {
		theatre.Options.Patience = alonePatience
	}
	o.play(ctx, theatre)
	o.err = errors.Join(o.err, theatre.Close())
}

func (o *round) play(ctx context.Context, theatre *Theatre) {
	o.diff = ""
	var sc *Scenario
	if sc, o.err = ParseScenario(o.Source); o.err != nil {
		return
	}
	var got []string
	if got, o.err = theatre.Play(ctx, sc); o.err == nil {
		o.diff = o.compare(o.Answers, got)
	}
}

// TestReplayForgivesSlips lets a director answer wrongly when it is not alone,
// and one that is wrong always.
func TestReplayForgivesSlips(t *testing.T) {
	for _, c := range []struct {
		wrong int // so many plays
		good  bool
	}{{0, true}, {1, true}, {3, true}, {4, false}} {
		o := &round{name: "fickle", as: &Theatre{Subject: &fickle{wrong: c.wrong}}, compare: Compare, Recording: Recording{Source: "show right\n", Answers: []string{"$ ipvsadm right (exit 2)", "  right"}}}
		inCompany(t.Context(), t, []*round{o})
		for range alone {
			if !o.good() && !errors.Is(o.err, lab.ErrPrivileges) {
				o.playAlone(t.Context(), true)
			}
		}
		if errors.Is(o.err, lab.ErrPrivileges) {
			t.Skipf("%v: run as root, or allow user namespaces", o.err)
		}
		if o.good() != c.good {
			t.Errorf("wrong %d times: good %t, want %t: %s", c.wrong, o.good(), c.good, o.complaint())
		}
	}
}

// fickle is plain, but wrong in its first plays.
type fickle struct {
	plain
	wrong int
}

func (f *fickle) Start(context.Context, *lab.Host) (Director, error) {
	f.wrong--
	if f.wrong >= 0 {
		return wrong{}, nil
	}
	return plain{}, nil
}

type wrong struct{ plain }

func (wrong) Command(context.Context, []string) (string, int, error) { return "wrong", 0, nil }
