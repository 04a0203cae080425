package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	floods      = flag.Bool("flood", false, "TestFloods: floods of SYNs, which need the machine alone")
	floodFor    = flag.Duration("flood-for", 2*time.Minute, "how long a flood of TestFloods lasts")
	floodOnly   = flag.String("flood-only", "", "the cases of TestFloods, by a regular expression")
	floodBinary = flag.String("flood-binary", "", "another ulvs for TestFloods, as the commit's before")
	floodRate   = flag.Int("flood-rate", 0, "the rate of the cases 70%, which is else measured; to compare binaries")
)

// floodCase is a flood, and what it meets.
type floodCase struct {
	plane       string
	rate        int // or 0: seven tenths of what the plane takes
	persistent  bool
	connections int
}

// floodReached is how much of its rate a flood has to have had for its case to count.
const floodReached = 0.9

// defaultConnections is what --connections is if it is not given.
const defaultConnections = 1 << 20

func floodCases() (list []floodCase) {
	for _, plane := range []string{*fast, "afpacket"} {
		for _, rate := range []int{20000, 0} {
			for _, persistent := range []bool{false, true} {
				for _, connections := range []int{65536, defaultConnections} {
					list = append(list, floodCase{plane, rate, persistent, connections})
				}
			}
		}
	}
	return list
}

func (c floodCase) String() string {
	words := []string{c.plane, "70%", "plain", strconv.Itoa(c.connections)}
	if c.rate > 0 {
		words[1] = strconv.Itoa(c.rate)
	}
	if c.persistent {
		words[2] = "persistent"
	}
	if c.connections == defaultConnections {
		words[3] = "default"
	}
	return strings.Join(words, "-")
}

// options are the service's.
func (c floodCase) options() string {
	if c.persistent {
		return "-p 300"
	}
	return ""
}

// judged says whether limits hold for a case: on AF_PACKET, where a flood at a high rate and
// new clients share a ring, the figures are only printed.
func (c floodCase) judged() bool { return c.plane == *fast || c.rate > 0 }

// start starts a daemon with the service, on a site of its own.
func (c floodCase) start(t *testing.T) *floodSite {
	t.Helper()
	s := newFloodSite(t)
	s.binary = *floodBinary
	args := []string{"--interface", "eth0", "--plane", c.plane, "--connections", strconv.Itoa(c.connections)}
	if c.plane == *fast {
		args = append(args, "--af-xdp", "on")
	}
	s.site.start(args...)
	s.serveFlooded(c.options())
	return s
}

// Floods of SYNs from distinct sources hurt nobody: established connections go on, new
// clients are served meanwhile, and at once when the flood is over.
func TestFloods(t *testing.T) {
	if !*floods {
		t.Skip("make flood has the machine to itself")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	only, err := regexp.Compile(*floodOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range floodCases() {
		if only.MatchString(c.String()) {
			t.Run(c.String(), c.run)
		}
	}
}

func (c floodCase) run(t *testing.T) {
	rate, takes := c.rate, ""
	if rate == 0 {
		rate = *floodRate
	}
	if rate == 0 {
		most, why := c.takes(t)
		rate = most * 7 / 10
		takes = fmt.Sprintf(", of %d/s that it takes (%s)", most, why)
	}
	s := c.start(t)
	l := &floodLoad{floodSite: s, end: make(chan bool)}
	l.establish(t, floodEstablished, floodPatience)
	before := s.status()
	l.comeAnew()
	sent, took, err := s.flood.send(rate, *floodFor)
	over := time.Now()
	if err != nil {
		t.Fatal(err)
	}
	status := s.status()
	time.Sleep(floodAfter)
	l.stop()
	r := l.result(over)
	real := float64(sent) / took.Seconds()
	limits := "no limits: for comparison"
	if c.judged() {
		limits = "limits: 0 established ended, 99 % within 1.1s, all at once after it"
	}
	t.Logf("%v: %.0f SYNs/s%s for %v | %v | %s | %s", c, real, takes, took.Round(time.Second), r,
		spent(before, status), limits)
	if real < float64(rate)*floodReached {
		t.Errorf("%v: the stranger sent %.0f SYNs/s of %d: the machine has no time for this test", c, real, rate)
	}
	if bad := r.judge(); c.judged() && bad != nil {
		t.Errorf("%v: %s\nat the flood's end: %v", c, strings.Join(bad, "; "), nonzero(before, status))
	}
}

// spent is what a daemon counted meanwhile that says how it fared.
func spent(before, after map[string]int) string {
	evicted := after["half_open_evicted"] - before["half_open_evicted"]
	text := fmt.Sprintf("half_open_evicted %d, connections %d, half_open %d, templates %d", evicted, after["connections"],
		after["half_open"], after["templates"])
	for _, name := range slices.Sorted(maps.Keys(after)) {
		n := after[name] - before[name]
		if n != 0 && (strings.HasPrefix(name, "drop_") || strings.Contains(name, "lost") || strings.Contains(name, "full") ||
			strings.HasPrefix(name, "templates_evicted") || strings.HasPrefix(name, "af_xdp_rx_") ||
			name == "answered_for_host" || name == "rst_limited") {
			text += fmt.Sprintf(", %s %d", name, n)
		}
	}
	return text
}

// nonzero is what has counted.
func nonzero(before, after map[string]int) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if n := after[name] - before[name]; n != 0 {
			list = append(list, fmt.Sprint(name, " +", n))
		}
	}
	return list
}

// takes measures how many SYNs a second a daemon forwards to its servers before some are
// lost, or the stranger has no more, and says which.
func (c floodCase) takes(t *testing.T) (rate int, why string) {
	t.Helper()
	const (
		lasts = 2 * time.Second
		first = 20000
	)
	s := c.start(t)
	// forwards tries a rate: what was sent a second, and whether 99 % of it have arrived.
	forwards := func(rate int) (real int, ok bool) {
		from := s.arrived()
		sent, took, err := s.flood.send(rate, lasts)
		if err != nil {
			t.Fatal(err)
		}
		got := s.settled() - from
		return int(float64(sent) / took.Seconds()), got*100 >= sent*99
	}
	why = "more loses some"
	try := func(asked int) (ok bool) {
		real, ok := forwards(asked)
		if ok {
			rate = max(rate, real)
		}
		if ok && real*20 < asked*19 {
			why = "the generator has no more"
			return false
		}
		return ok
	}
	step := first
	for try(step) {
		step += step / 2
	}
	if why == "more loses some" { // between the last rate that went and this
		_ = try(step*5/6) || try(step*3/4)
	}
	if rate == 0 {
		t.Fatalf("%v: of %d SYNs/s some are lost: %v", c, first, s.status())
	}
	return rate, why
}

// settled is how many frames the servers have had when no more come.
func (s *floodSite) settled() int {
	s.t.Helper()
	for was := -1; ; time.Sleep(50 * time.Millisecond) {
		n := s.arrived()
		if n-was < 10 {
			return n
		}
		was = n
	}
}

// While a stranger floods a small table, whoever answers within so many SYNs is served, and
// established connections go on. This judges the work and not the machine: the stranger
// waits for a client whose handshake takes longer.
func TestShortFlood(t *testing.T) {
	const (
		rate    = 4000
		lasts   = 3 * time.Second
		within  = 500 // SYNs, of which the table has room for some 1,500
		clients = 30
	)
	for _, c := range []floodCase{{"afpacket", rate, false, 2048}, {*fast, rate, false, 2048},
		{"afpacket", rate, true, 2048}, {*fast, rate, true, 2048}} {
		t.Run(c.String(), func(t *testing.T) {
			if c.plane == *fast && os.Getuid() != 0 {
				t.Skip("BPF needs root")
			}
			s := c.start(t)
			l := &floodLoad{floodSite: s, end: make(chan bool)}
			l.establish(t, 50, patience)
			l.running.Go(func() {
				for {
					select {
					case <-l.end:
						return
					default:
					}
					s.flood.most.Store(s.flood.sent.Load() + within)
					l.client(patience)
					s.flood.most.Store(1 << 62)
					time.Sleep(time.Second / clients)
				}
			})
			sent, _, err := s.flood.send(rate, lasts)
			if err != nil {
				t.Fatal(err)
			}
			for sent < rate*int(lasts/time.Second) { // where a client was waited for
				more, _, err := s.flood.send(rate, lasts/10)
				if err != nil {
					t.Fatal(err)
				}
				sent += more
			}
			l.stop()
			r, status := l.result(time.Now()), s.status()
			t.Logf("%d SYNs: %v | %s", sent, r, spent(nil, status))
			if n := r.reset + r.timedOut + r.lost; n > 0 || r.served < r.fresh || r.fresh == 0 {
				t.Errorf("%d established connections ended, %d of %d new clients were served", n, r.served, r.fresh)
			}
			if n := status["opened_by_plane"]; c.plane == *fast && n < sent/2 {
				t.Errorf("XDP opened %d connections for %d SYNs: it is to open most of them in a table that is nearly full too", n, sent)
			}
			if most := status["connections_max"]; status["connections"] > most || status["half_open_evicted"] < sent/2 {
				t.Errorf("%d connections of %d, %d made room for %d SYNs", status["connections"], most, status["half_open_evicted"], sent)
			}
		})
	}
}
