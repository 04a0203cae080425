package xdp

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

// manyKey is the key of one of many services.
func manyKey(i int) ulvs.ServiceKey {
	const first = 100
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: uint16(first + i)}
	if first+i > 65535 {
		k.Protocol, k.Port = ulvs.UDP, uint16(1000+first+i-65535)
	}
	return k
}

// unopened is what status says of services whose connections Go opens.
func (w *pair) unopened() string {
	w.t.Helper()
	list, err := w.fast.Facts()
	w.must(err)
	i := slices.IndexFunc(list, func(f ulvs.Fact) bool { return f.Name == "opened in Go" })
	if i < 0 {
		return ""
	}
	return list[i].Value
}

// syn is a client's first packet to a service.
func (w *pair) syn(client int, port uint16, k ulvs.ServiceKey) []byte {
	s := shape{proto: layers.IPProtocolTCP, flags: "S", port: port, to: k.Port, from: [4]byte{11, 1, byte(client >> 8), byte(client)}}
	if k.Protocol == ulvs.UDP {
		s.proto = layers.IPProtocolUDP
	}
	return s.frame(w.t)
}

// opens reports whether the program opens a connection of that, and to the last byte of which MAC
// address it sends it.
func (w *pair) opens(frame []byte) (opened bool, to byte) {
	w.t.Helper()
	action, out, err := runByHand(w.still.prog, frame)
	w.must(err)
	return action == program.ActionTX, out[5]
}

// restore carries out a batch, and fails on a change that is not carried out.
func (w *pair) restore(changes []ulvs.Change) {
	w.t.Helper()
	w.must(w.fast.Batch(changes, func(_ int, err error) bool {
		w.must(err)
		return true
	}))
}

// The program opens the connections of as many services as there are numbers for, of two real
// servers each, and those of the next daemon too. The one beyond is Go's.
func TestManyServices(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("a guest takes minutes, and has not the memory")
	}
	w := newPairOf(t, 1, 0)
	const services = preselect.Services - 1
	var changes []ulvs.Change
	for i := range services + 1 {
		changes = append(changes, ulvs.Change{Verb: ulvs.VerbAddService, Service: ulvs.Service{ServiceKey: manyKey(i), Scheduler: "rr"}})
		for server := range 2 {
			changes = append(changes, ulvs.Change{Verb: ulvs.VerbAddDestination, Key: manyKey(i),
				Destination: ulvs.Destination{Addr: pairServer(false, (i+server)%pairServers), Port: 80, Weight: 1}})
		}
	}
	began := time.Now()
	w.restore(changes[:3*services])
	t.Logf("the restore took %v", time.Since(began))
	if got := w.unopened(); got != "" {
		t.Errorf("all is opened by the program, and status says: %s", got)
	}
	beyond := fmt.Sprintf("%v (beyond the first 65535 services)", manyKey(services))
	for _, what := range []string{"restore", "another daemon"} {
		if what == "another daemon" {
			w.restore(changes[3*services:])
			if got := w.unopened(); got != beyond {
				t.Errorf("status says %s, want %s", got, beyond)
			}
			began := time.Now()
			w.start()
			t.Logf("another daemon took %v", time.Since(began))
			if got := w.unopened(); got != beyond {
				t.Errorf("status says %s, want %s", got, beyond)
			}
		}
		w.must(w.still.load())
		w.fast.Tick(w.still.now)
		for _, i := range []int{0, 1, 1022, 1023, 1024, 16383, 40000, services - 1} {
			var to []byte
			for client := range 4 {
				opened, at := w.opens(w.syn(len(what)*100+client, 2000, manyKey(i)))
				if !opened {
					t.Fatalf("%s: a connection to service %d, %v, is Go's", what, i, manyKey(i))
				}
				to = append(to, at)
			}
			first := byte(200 + i%pairServers)
			if slices.Sort(to); to[0] == to[3] || to[0] != to[1] || to[2] != to[3] || !slices.Contains(to, first) {
				t.Errorf("%s: connections to service %d went to %v", what, i, to)
			}
		}
		if opened, _ := w.opens(w.syn(1, 2000, manyKey(services))); opened {
			t.Errorf("%s: a connection to a service beyond the last was opened", what)
		}
	}
}

// Services for whose buckets there is no room are Go's, by name, until others give some back; of one
// that is persistent the program leads those who have templates.
func TestPoolFull(t *testing.T) {
	const room = preselect.Pool / preselect.Largest
	w := newPairOf(t, 1, room+10)
	add := func(i int, persistence time.Duration) []ulvs.Change {
		return []ulvs.Change{
			{Verb: ulvs.VerbAddService, Service: ulvs.Service{ServiceKey: manyKey(i), Scheduler: "mh",
				Persistence: ulvs.Persistence{Timeout: persistence}}},
			{Verb: ulvs.VerbAddDestination, Key: manyKey(i),
				Destination: ulvs.Destination{Addr: pairServer(false, i%pairServers), Port: 80, Weight: 1}},
		}
	}
	var changes []ulvs.Change
	for i := range room {
		changes = append(changes, add(i, 0)...)
	}
	w.restore(changes)
	if got := w.unopened(); got != "" {
		t.Fatalf("there is room for %d, and status says: %s", room, got)
	}
	plain, persistent := manyKey(room), manyKey(room+1)
	w.restore(append(add(room, 0), add(room+1, time.Minute)...))
	why := " (no room for its choices)"
	if got := w.unopened(); !strings.Contains(got, plain.String()+why) || !strings.Contains(got, persistent.String()+why) {
		t.Fatalf("status says: %s", got)
	}
	w.must(w.still.load())
	tick := func() { w.fast.Tick(w.still.now) }
	tick()
	for client, last := range []ulvs.ServiceKey{plain, persistent} {
		if opened, _ := w.opens(w.syn(client, 2000, last)); opened {
			t.Errorf("a connection to %v was opened", last)
		}
		w.fate(w.fast, w.syn(client, 2000, last))
	}
	if opened, _ := w.opens(w.syn(1, 2001, persistent)); !opened {
		t.Error("who has a template is not led by it")
	}
	// What becomes free is for those who wait, whoever comes first.
	w.must(w.fast.DeleteService(manyKey(7)))
	tick()
	w.must(w.fast.DeleteService(manyKey(8)))
	tick()
	if got := w.unopened(); got != "" {
		t.Errorf("two have gone, and status says: %s", got)
	}
	for client, last := range []ulvs.ServiceKey{plain, persistent, manyKey(room - 1)} {
		if opened, to := w.opens(w.syn(100+client, 2000, last)); !opened || to < 200 || to >= 200+pairServers {
			t.Errorf("a connection to %v was opened: %v, to %d", last, opened, to)
		}
	}
}
