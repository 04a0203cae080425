package xdp

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
)

// TestMadeLeft has a program be between its choice and telling of the connection when the service ceases to
// be persistent: of the template that it has made nothing is left.
func TestMadeLeft(t *testing.T) {
	w := newShop(t, 5*time.Minute)
	client := [4]byte{11, 1, 1, 1}
	w.openMeanwhile(client, 1024)
	w.later(time.Hour)
	all, pending := w.inTemplates()
	if all != 0 || w.counter("connections") != 0 {
		t.Errorf("an hour later there are %d templates, %d of them pending, and %d connections; counted are %d templates",
			all, pending, w.counter("connections"), w.counter("templates"))
	}
}

// TestMadeGone has the client come back then, when the service is persistent again and the real server has
// gone.
func TestMadeGone(t *testing.T) {
	w := newShop(t, 5*time.Minute)
	client := [4]byte{11, 1, 1, 1}
	w.openMeanwhile(client, 1024)
	w.replaceServer()
	w.must(w.fast.EditService(shopService(5 * time.Minute)))
	defer noPanic(t)
	frame := shopFrame(t, client, 1025, "S")
	if !w.byProgram(frame) {
		w.fate(w.fast, frame)
	}
}

// TestMadeElsewhere has the real server's number be another service's by then.
func TestMadeElsewhere(t *testing.T) {
	w := newShop(t, 5*time.Minute)
	client := [4]byte{11, 1, 1, 1}
	w.openMeanwhile(client, 1024)
	w.replaceServer()
	other := shopService(0)
	other.Port = 4000
	w.must(w.fast.AddService(other))
	w.must(w.fast.AddDestination(other.ServiceKey, ulvs.Destination{Addr: pairServer(false, 3), Port: 4000, Weight: 1}))
	w.must(w.fast.EditService(shopService(5 * time.Minute)))
	w.later(time.Second)
	frame := shopFrame(t, client, 1025, "S")
	action, out, err := runByHand(w.still.prog, frame)
	w.must(err)
	if action == program.ActionTX && out[5] == 203 {
		t.Errorf("a packet to port 80, whose only server is .201, went to %x, which is a server of port 4000", out[:6])
	}
}

// TestMadeIdle has the client have a template that controls nothing by then: its ACK does not make that
// ASSURED, which would not be found on the list on which it is, and templates make room in order.
func TestMadeIdle(t *testing.T) {
	w := newSmallShop(t, 512)
	a := [4]byte{11, 1, 1, 1}
	w.mustTake(shopFrame(t, a, 1024, "S"))
	w.later(70 * time.Second) // the connection is over, its template controls nothing
	if w.counter("connections") != 0 || w.counter("templates") != 1 {
		t.Fatal(w.counter("connections"), w.counter("templates"))
	}
	w.openMeanwhile(a, 1025)
	w.later(time.Second)
	w.mustTake(shopFrame(t, a, 1025, "A"))
	w.later(time.Second)
	w.later(20 * time.Minute) // all is over
	if n, m := w.counter("connections"), w.counter("templates"); n != 0 || m != 0 {
		t.Fatal(n, m)
	}
	// A flood of clients that do not answer: templates make room.
	w.must(w.fast.EditService(shopService(5 * time.Minute)))
	w.later(time.Second)
	defer noPanic(t)
	for i := range 1000 {
		frame := shopFrame(t, [4]byte{12, 1, byte(i >> 8), byte(i)}, 2000, "S")
		if !w.byProgram(frame) {
			w.fate(w.fast, frame)
		}
		if i%32 == 0 {
			w.fast.Tick(w.still.now)
			all, pending := w.inTemplates()
			if n := w.counter("templates"); int(n) != all-pending {
				t.Fatalf("after %d packets there are %d templates (%d pending), counted are %d", i+1, all, pending, n)
			}
		}
	}
}

// TestMadeEdits has a service cease to be persistent, and be so again, while a program opens connections
// on the other CPU: no template is left that nobody accepts.
func TestMadeEdits(t *testing.T) {
	cpus := allowed(t)
	if len(cpus) < 2 {
		t.Skip("two CPUs")
	}
	w := newShop(t, 5*time.Minute)
	pin := func(cpu int) {
		runtime.LockOSThread()
		var is unix.CPUSet
		is.Set(cpu)
		w.must(unix.SchedSetaffinity(0, &is))
	}
	frames := make([][]byte, 20000)
	for i := range frames {
		frames[i] = shopFrame(t, [4]byte{12, byte(i >> 16), byte(i >> 8), byte(i)}, 2000, "S")
	}
	var over atomic.Bool
	var all sync.WaitGroup
	sent, edits := 0, 0
	all.Go(func() {
		defer over.Store(true)
		pin(cpus[1])
		for _, frame := range frames {
			if w.byProgram(frame) {
				sent++
			}
		}
	})
	all.Go(func() {
		pin(cpus[0])
		for ; !over.Load(); edits++ {
			w.must(w.fast.EditService(shopService(time.Duration(edits%2) * 5 * time.Minute)))
		}
	})
	all.Wait()
	w.must(w.fast.EditService(shopService(0)))
	w.fast.Tick(w.still.now)
	_, pending := w.inTemplates()
	t.Logf("%d edits, the program opened %d connections", edits, sent)
	if pending != 0 {
		t.Errorf("%d templates are pending, and nobody will ever accept them", pending)
	}
}
