package conformance

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

var (
	seedsFlag      = flag.String("seeds", "1-500", "TestRandom, with -kernel: the seeds to play, as in 7 or 1-500")
	jobsFlag       = flag.Int("j", 10, "TestRandom, with -kernel: how many scenarios ulvs plays at once")
	guestsFlag     = flag.Int("guests", 2, "TestRandom, with -kernel: how many kernels")
	withoutFlag    = flag.String("without", "", fmt.Sprint("TestRandom, with -kernel: what to leave out, separated by commas: ", Kinds))
	schedulersFlag = flag.String("schedulers", "", "TestRandom, with -kernel: the schedulers to use, separated by commas")
	shrinkFlag     = flag.Int("shrink", 5, "TestRandom, with -kernel: how many differences to shrink")
	playFlag       = flag.String("play", "", "TestRandom, with -kernel: play the scenarios of these `FILES` (a pattern) instead")
	briefFlag      = flag.Bool("brief", false, "TestRandom, with -kernel: short scenarios")
	equalFlag      = flag.String("equal", "", "TestRandom, with -kernel: write scenarios without difference to this `DIR`")
	planeFlag      = flag.String("plane", "afpacket", "TestRandom, with -kernel: ulvs's `PLANE`, afpacket, xdp, af_xdp, tcx or bridged")
	keepFlag       = flag.String("keep", "", "TestRandom, with -kernel: write shrunk scenarios with the kernel's answers to this `DIR`")
)

func parseSeeds(s string) (from, to uint64, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if from, err = strconv.ParseUint(a, 10, 64); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return from, from, nil
	}
	to, err = strconv.ParseUint(b, 10, 64)
	return from, to, err
}

func splitFlag(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// live asks kernels and ulvs the same.
type live struct {
	t      *testing.T
	shares byPlane
	free   chan *Theatre
	asked  atomic.Int64
	mu     sync.Mutex // guards what follows
	guests []*Running
	spares int // how many guests may yet be replaced
}

func newLive(ctx context.Context, t *testing.T) *live {
	l := &live{t: t, shares: wantedShares(), free: make(chan *Theatre, *jobsFlag), spares: 2}
	t.Cleanup(func() {
		for _, g := range l.guests {
			if err := g.Close(); err != nil {
				t.Log(err) // it has answered
			}
		}
	})
	for range *guestsFlag {
		l.guests = append(l.guests, startGuest(ctx, t))
	}
	binary := buildUlvs(t)
	for range *jobsFlag {
		l.free <- l.shares.of(*planeFlag, quickUlvs(binary, *planeFlag))
	}
	t.Cleanup(func() {
		for range *jobsFlag {
			if err := (<-l.free).Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// quickUlvs plays with small tables, which are made in no time.
func quickUlvs(binary, plane string) *Theatre {
	u := Ulvs{Binary: binary, Plane: plane, Args: []string{"--connections", "16384"}}
	if plane == bridged {
		u.Plane, u.Bridged = "afpacket", debianIPVSAdm
	}
	return &Theatre{Subject: u, Options: Options{NoResolve: true}}
}

// bridged is the plane afpacket, spoken to by Debian's ipvsadm under ulvs bridge, as if it were
// a plane of its own.
const (
	bridged       = "bridged"
	debianIPVSAdm = "/usr/sbin/ipvsadm"
)

func (l *live) kernel(ctx context.Context, text string) ([]string, error) {
	n := l.asked.Add(1)
	for {
		guest := l.guest(n)
		answers, err := guest.Ask(ctx, fmt.Sprintf("s%d%s", n, QuickSuffix), text)
		if !errors.Is(err, ErrGuestEnded) || !l.replace(ctx, guest, err) {
			return answers, err
		}
	}
}

func (l *live) guest(n int64) *Running {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.guests[n%int64(len(l.guests))]
}

// replace boots another guest in place of one that has ended, a few times: it is the
// director that is on trial, and not the judge's health.
func (l *live) replace(ctx context.Context, dead *Running, why error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.guests, dead)
	if i < 0 {
		return true // somebody has replaced it
	}
	if l.spares == 0 {
		return false
	}
	l.spares--
	l.t.Logf("another guest is booted: %v", why)
	fresh, err := Guest{Module: ".."}.Boot(context.WithoutCancel(ctx))
	if err != nil {
		l.t.Error(err)
		return false
	}
	l.guests[i] = fresh
	_ = dead.Close() // it has been said why
	return true
}

// TestKernelReplaced has a guest end, as a machine without memory might have it: the
// answer is another's, until there were too many.
func TestKernelReplaced(t *testing.T) {
	if !*kernelFlag {
		t.Skip("kernels are booted by: go test ./conformance -run TestKernelReplaced -kernel")
	}
	l := newLive(t.Context(), t)
	l.spares = 1
	text := Generate(1, Features{Brief: true})
	want, err := l.kernel(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range l.guests {
		g.cancel()
		<-g.ended
	}
	var errs []error
	for range l.guests {
		got, err := l.kernel(t.Context(), text)
		if diff := CompareNear(want, got); err == nil && diff != "" {
			t.Error(diff)
		}
		errs = append(errs, err)
	}
	if ended := func(err error) bool { return errors.Is(err, ErrGuestEnded) }; !slices.Contains(errs, nil) || !slices.ContainsFunc(errs, ended) {
		t.Errorf("of two guests that ended, one to be replaced, came: %v", errs)
	}
}

func (l *live) ulvs(ctx context.Context, text string) ([]string, error) {
	sc, err := ParseScenario(text)
	if err != nil {
		return nil, err
	}
	t := <-l.free
	defer func() { l.free <- t }()
	return t.Play(ctx, sc)
}

// both plays a scenario on both sides.
func (l *live) both(ctx context.Context, text string) (want, got []string, err error) {
	var wg sync.WaitGroup
	var err1, err2 error
	wg.Go(func() { want, err1 = l.kernel(ctx, text) })
	wg.Go(func() { got, err2 = l.ulvs(ctx, text) })
	wg.Wait()
	if err1 != nil {
		err1 = fmt.Errorf("kernel: %w", err1)
	}
	if err2 != nil {
		err2 = fmt.Errorf("ulvs: %w", err2)
	}
	return want, got, errors.Join(err1, err2)
}

// differs returns the first of some scenarios whose difference is of the kind.
func (l *live) differs(ctx context.Context, kind string) func([]string) int {
	return func(candidates []string) int {
		hit := make([]bool, len(candidates))
		var wg sync.WaitGroup
		for i, c := range candidates {
			wg.Go(func() {
				want, got, err := l.both(ctx, c)
				hit[i] = err == nil && diffKind(CompareNear(want, got)) == kind
			})
		}
		wg.Wait()
		for i := range hit {
			if hit[i] {
				return i
			}
		}
		return -1
	}
}

// diffKind is what a difference is about, without the particulars.
func diffKind(diff string) string {
	minus, plus := "", ""
	for line := range strings.Lines(diff) {
		if (line[0] == '-' && minus != "") || (line[0] == '+' && plus != "") {
			continue
		}
		_, outcome, isPacket := strings.Cut(line, " -> ")
		kind := "listing"
		if isPacket && strings.Contains(line, "#") {
			kind = strings.TrimSpace(outcome)
			if strings.HasPrefix(kind, "r") && !strings.HasPrefix(kind, "rst") {
				kind = "server"
			}
		}
		switch line[0] {
		case '-':
			minus = kind
		case '+':
			plus = kind
		}
	}
	if minus+plus == "" {
		return ""
	}
	return minus + "/" + plus
}

// TestRandom plays generated scenarios on the kernel and on ulvs.
func TestRandom(t *testing.T) {
	if !*kernelFlag {
		t.Skip("the kernel is asked by: go test ./conformance -run TestRandom -kernel [-seeds 1-500]")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 38*time.Minute)
	defer cancel()
	if _, err := lab.New(lab.Config{}); errors.Is(err, lab.ErrPrivileges) {
		t.Skipf("%v: run as root, or allow user namespaces", err)
	}
	from, to, err := parseSeeds(*seedsFlag)
	if err != nil {
		t.Fatalf("-seeds: %v", err)
	}
	texts := make(map[string]string)
	var names []string
	features := Features{Schedulers: splitFlag(*schedulersFlag), Without: splitFlag(*withoutFlag), Brief: *briefFlag}
	if *playFlag == "" {
		for seed := from; seed <= to; seed++ {
			name := fmt.Sprintf("seed-%d", seed)
			names = append(names, name)
			texts[name] = Generate(seed, features)
		}
	} else {
		files, err := filepath.Glob(*playFlag)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			r, err := ParseRecording(string(text))
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, f)
			texts[f] = r.Source
		}
	}
	l := newLive(ctx, t)
	coverage := make(Coverage)
	began := time.Now()
	type result struct {
		name, diff string
	}
	results := make([]result, len(names))
	var wg sync.WaitGroup
	tokens := make(chan struct{}, 2**jobsFlag)
	for i, name := range names {
		coverage.Add(texts[name])
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			want, got, err := l.both(ctx, texts[name])
			diff := CompareNear(want, got)
			if err != nil {
				diff = err.Error()
			}
			results[i] = result{name, diff}
			if *playFlag != "" && *keepFlag != "" && want != nil {
				keep(t, l, *keepFlag, name, texts[name], want)
			}
			if *equalFlag != "" && diff == "" {
				keep(t, l, *equalFlag, name, texts[name], want)
			}
		})
	}
	wg.Wait()
	for i := range results {
		l.again(ctx, t, &results[i].diff, results[i].name, texts[results[i].name])
	}
	took := time.Since(began)
	t.Logf("%d scenarios in %v: %.1f a second", len(names), took.Round(time.Second), float64(len(names))/took.Seconds())
	t.Logf("coverage, in scenarios:\n%v", coverage)
	l.shares.print()
	results = slices.DeleteFunc(results, func(r result) bool { return r.diff == "" })
	for _, r := range results {
		t.Errorf("%s:\n%s", r.name, r.diff)
	}
	for _, r := range results[:min(*shrinkFlag, len(results))] {
		shrinkOne(ctx, t, l, r.name, texts[r.name], r.diff)
	}
	// The last lines are what people see first.
	for _, r := range results {
		t.Logf("%s: %s", r.name, cmp.Or(diffKind(r.diff), r.diff))
	}
	t.Logf("%d of %d scenarios differ, %v", len(results), len(names), time.Since(began).Round(time.Second))
}

// again plays what differed again, alone: on a busy machine a packet or a second
// may come late.
func (l *live) again(ctx context.Context, t *testing.T, diff *string, name, text string) {
	for n := 0; n < alone && *diff != ""; n++ {
		before := *diff
		want, got, err := l.both(ctx, text)
		if *diff = CompareNear(want, got); err != nil {
			*diff = err.Error()
		}
		if *diff == "" {
			t.Logf("%s: played alone, it agrees; before it did not: a slip of time, or a race:\n%s", name, before)
		}
	}
}

func shrinkOne(ctx context.Context, t *testing.T, l *live, name, text, diff string) {
	kind := diffKind(diff)
	if kind == "" {
		return // an error, and no difference
	}
	if l.differs(ctx, kind)([]string{text}) < 0 {
		t.Logf("%s: not again: a race?", name)
		return
	}
	small := Shrink(text, l.differs(ctx, kind))
	want, got, err := l.both(ctx, small)
	if err != nil {
		t.Error(err)
		return
	}
	t.Logf("%s shrunk:\n%s\nkernel:\n%s\n\nulvs:\n%s\n%s", name, small, strings.Join(want, "\n"), strings.Join(got, "\n"), CompareNear(want, got))
	if *keepFlag != "" && *playFlag == "" {
		keep(t, l, *keepFlag, name, small, want)
	}
}

// keep writes a scenario with the kernel's answers.
func keep(t *testing.T, l *live, dir, name, text string, answers []string) {
	r := Recording{Kernel: l.guests[0].Kernel, Source: text, Answers: answers}
	name = strings.TrimSuffix(filepath.Base(name), ".txt") + ".txt"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(r.String()), 0o644); err != nil {
		t.Error(err)
	}
}
