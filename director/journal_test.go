package director_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/accel"
)

// twins are two directors that are told and sent the same: one is started anew
// again and again, and goes on with what it left; the other is not.
type twins struct {
	t      *testing.T
	rng    *rand.Rand
	steady *bed
	anew   *bed
	keeper *dataplanetest.Keeper
}

func newTwins(t *testing.T, seed uint64) *twins {
	w := &twins{t: t, rng: rand.New(rand.NewPCG(seed, 1)), steady: emptyBed(t), anew: emptyBed(t)}
	w.steady.begin(director.Options{}, dataplanetest.NewKeeper(w.steady.plane))
	w.keeper = dataplanetest.NewKeeper(w.anew.plane)
	w.anew.begin(director.Options{}, w.keeper)
	return w
}

// restart ends nothing: a process that is killed does not either.
func (w *twins) restart() {
	w.anew.begin(director.Options{}, w.keeper)
	if !w.anew.Adopted() {
		w.t.Fatal("nothing was adopted")
	}
}

func (w *twins) same(what string, f func(b *bed) string) {
	w.t.Helper()
	expect(w.t, what, f(w.anew), f(w.steady))
}

func pick[E any](r *rand.Rand, list ...E) E { return list[r.IntN(len(list))] }

func (w *twins) key() ulvs.ServiceKey {
	return pick(w.rng, tcp(80), tcp(81), udp(53), ulvs.ServiceKey{Mark: 10}, ulvs.ServiceKey{Mark: 10, IPv6: true})
}

// command is one that an operator might give.
func (w *twins) command() (string, func(b *bed) error) {
	r, k := w.rng, w.key()
	s := persistent(k, pick(r, "rr", "wrr", "wlc", "sh", "mh", "dh", "sed", "nq", "fo", "ovf", "lc"), time.Duration(r.IntN(2)*r.IntN(200))*time.Second)
	d := dest(k, r.IntN(4), int32(r.IntN(4)))
	if r.IntN(4) == 0 {
		d.UpperThreshold = uint32(1 + r.IntN(5))
	}
	switch r.IntN(16) {
	case 0, 1, 2:
		return fmt.Sprint("add ", k), func(b *bed) error { return b.AddService(s) }
	case 3:
		return fmt.Sprint("edit ", k), func(b *bed) error { return b.EditService(s) }
	case 4:
		return fmt.Sprint("delete ", k), func(b *bed) error { return b.DeleteService(k) }
	case 5:
		if r.IntN(4) == 0 {
			return "clear", func(b *bed) error { return b.Clear() }
		}
		fallthrough
	case 6, 7, 8, 9:
		return fmt.Sprint("add server ", k), func(b *bed) error { return b.AddDestination(k, d) }
	case 10:
		return fmt.Sprint("edit server ", k), func(b *bed) error { return b.EditDestination(k, d) }
	case 11:
		return fmt.Sprint("delete server ", k), func(b *bed) error { return b.DeleteDestination(k, d.AddrPort()) }
	case 12:
		t := ulvs.Timeouts{TCP: time.Duration(1+r.IntN(900)) * time.Second, UDP: time.Duration(r.IntN(300)) * time.Second}
		return "timeouts", func(b *bed) error { return b.SetTimeouts(t) }
	case 13:
		name, value := pick(r, "expire_nodest_conn", "expire_quiescent_template", "conn_reuse_mode", "sloppy_tcp"), r.IntN(2)
		return "sysctl " + name, func(b *bed) error { return b.SetSysctl(name, value) }
	case 14:
		words := strings.Fields(pick(r, "-t mangle -A PREROUTING -p tcp --dport 443 -j MARK --set-mark 10", "-t mangle -F PREROUTING", "-t mangle -A PREROUTING -p udp -j MARK --set-mark 10"))
		six := r.IntN(2) == 0
		return "marks", func(b *bed) error { _, err := b.MarkCommand(six, words); return err }
	}
	return "zero", func(b *bed) error { return b.ZeroAll() }
}

func (w *twins) listing(b *bed) string {
	var out strings.Builder
	services, err := b.Services()
	b.must(err)
	for _, s := range services {
		s.Rate = ulvs.Rate{} // its rounds begin anew
		for i := range s.Destinations {
			s.Destinations[i].Rate = ulvs.Rate{}
		}
		text, err := json.Marshal(s) // a service has a String of its own
		b.must(err)
		fmt.Fprintf(&out, "%s\n", text)
	}
	conns := b.conns()
	slices.SortFunc(conns, func(x, y ulvs.ConnStatus) int { return cmp.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
	for _, c := range conns {
		fmt.Fprintf(&out, "%+v\n", c)
	}
	for _, six := range []bool{false, true} {
		text, err := b.MarkSave(six)
		b.must(err)
		for line := range strings.Lines(text) {
			if line[0] != '#' {
				out.WriteString(line)
			}
		}
	}
	timeouts, err := b.Timeouts()
	b.must(err)
	sysctls, err := b.Sysctls()
	b.must(err)
	fmt.Fprintln(&out, timeouts, sysctls)
	return out.String()
}

// A director that is killed and started anew at any point answers as one that was
// not: each packet, each command, all listings.
func TestAnew(t *testing.T) {
	defer func(n int) { *director.JournalSize = n }(*director.JournalSize)
	*director.JournalSize = 48 << 10 // it is rewritten now and then
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { anew(t, seed) })
	}
}

func anew(t *testing.T, seed uint64) {
	w := newTwins(t, seed)
	for step := range 500 {
		switch r := w.rng; r.IntN(8) {
		case 0, 1, 2:
			what, f := w.command()
			w.same(fmt.Sprint(step, " ", what), func(b *bed) string { return fmt.Sprint(f(b)) })
		case 3, 4, 5, 6:
			six := r.IntN(5) == 0
			from, to := fmt.Sprintf("10.1.1.%d", 1+r.IntN(8)), vip
			if six {
				from, to = fmt.Sprintf("[fd01::%d]", 1+r.IntN(8)), "["+vip6+"]"
			}
			p := pkt{
				src: fmt.Sprintf("%s:%d", from, 1000+r.IntN(3)), dst: fmt.Sprintf("%s:%d", to, pick(r, 80, 81, 53, 443)),
				proto: pick(r, "tcp", "tcp", "udp"), flags: pick(r, "S", "S", "A", "PA", "FA", "R"),
			}
			w.same(fmt.Sprintf("%d %+v", step, p), func(b *bed) string {
				got := b.plane.Deliver(dataplane.Frame{Data: p.frame(t), In: eth0})[0]
				return fmt.Sprintf("%v %d %x", got.Verdict, got.Out, got.Data)
			})
		case 7:
			d := time.Duration(r.IntN(1000)) * 100 * time.Millisecond / time.Duration(1+r.IntN(100))
			if r.IntN(8) == 0 {
				d = 5 * time.Minute // the trash is emptied
			}
			w.steady.move(d)
			w.anew.move(d)
		}
		if w.rng.IntN(10) == 0 {
			w.restart()
		}
	}
	// A round of both estimators.
	w.steady.move(4 * time.Second)
	w.anew.move(4 * time.Second)
	w.same("at the end", w.listing)
	w.restart()
	w.steady.move(4 * time.Second)
	w.anew.move(4 * time.Second)
	w.same("after one more", w.listing)
}

// releasing is a plane that counts how often its memory was released.
type releasing struct {
	*dataplanetest.Keeper
	released    int
	late        error // of Memory
	refusal     error // of Accelerate
	accelerated bool
}

func (r *releasing) Release() { r.released++ }

func (r *releasing) Memory(parts []accel.Part) (bool, error) {
	kept, err := r.Keeper.Memory(parts)
	return kept, errors.Join(err, r.late)
}

func (r *releasing) Accelerate(accel.Acceleration) error {
	r.accelerated = true
	return r.refusal
}

// The plane's memory is released with the director that has its tables there, and
// when there is none to be.
func TestReleases(t *testing.T) {
	b := emptyBed(t)
	r := &releasing{Keeper: dataplanetest.NewKeeper(b.plane)}
	d, err := director.New(director.Options{Plane: r, Resolver: b.resolver, Connections: 100})
	if err != nil || r.released != 0 {
		t.Fatalf("released %d times at the start, %v", r.released, err)
	}
	d.Close()
	if r.released != 1 {
		t.Errorf("Close has released the memory %d times", r.released)
	}
	for _, r := range []*releasing{{late: errMeasured}, {refusal: errMeasured}} {
		r.Keeper = dataplanetest.NewKeeper(b.plane)
		if _, err := director.New(director.Options{Plane: r, Resolver: b.resolver, Connections: 100}); !errors.Is(err, errMeasured) {
			t.Fatal(err)
		}
		if r.released == 0 || r.accelerated != (r.refusal != nil) {
			t.Errorf("a director that cannot begin has released the memory %d times; accelerated: %v", r.released, r.accelerated)
		}
	}
}

// measured is a plane that only wants to know how much memory a director asks for.
type measured struct {
	*dataplanetest.Keeper
	bytes map[string]int
}

var errMeasured = errors.New("that is all")

func (m *measured) Memory(parts []accel.Part) (bool, error) {
	for _, p := range parts {
		m.bytes[p.Name] += p.Size
	}
	return false, errMeasured
}

// What ten million connections cost, everything included, is less than half of what
// the kernel's take (341 bytes each).
func TestMemory(t *testing.T) {
	const connections = 10_000_000
	b := emptyBed(t)
	m := &measured{dataplanetest.NewKeeper(b.plane), map[string]int{}}
	if _, err := director.New(director.Options{Plane: m, Resolver: b.resolver, Connections: connections}); !errors.Is(err, errMeasured) {
		t.Fatal(err)
	}
	all := 0
	for _, n := range m.bytes {
		all += n
	}
	alone := float64(m.bytes["conns"]+m.bytes["conn-records"]) / connections
	t.Logf("%.1f bytes a connection, %.1f with everything: %d MiB in all", alone, float64(all)/connections, all>>20)
	if alone > 128 || all > connections*168 || all > 1638<<20 {
		t.Error("too much")
	}
}
