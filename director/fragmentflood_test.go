package director_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/packet"
)

// heap returns how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// identify makes a fragment one of datagram n, of which there are 2^24.
func identify(frame []byte, n uint32) {
	ip := frame[14:34]
	ip[13] = byte(n >> 16) // 10.X.1.1
	binary.BigEndian.PutUint16(ip[4:], uint16(n))
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip))
}

// Two million datagrams whose later fragment comes first, behind one that never completes:
// what is remembered of them has a bound.
func TestFragmentFlood(t *testing.T) {
	const batch = 32
	pairs := uint32(2_000_000)
	if raceDetector { // which makes a minute of it
		pairs /= 10
	}
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 1)
	first := pkt{proto: "udp", src: "10.1.1.1:7", dst: vip + ":53", size: 16, fragID: 1, moreFragments: true}
	later := pkt{proto: "udp", src: "10.1.1.1:0", dst: vip + ":53", size: 16, fragID: 1, fragOffset: 3}
	blocker := later
	blocker.src = "10.255.1.1:0"
	expect(t, "the one that never completes", b.send(blocker), "drop")
	var frames []dataplane.Frame
	for range batch {
		frames = append(frames, dataplane.Frame{Data: later.frame(t), In: eth0}, dataplane.Frame{Data: first.frame(t), In: eth0})
	}
	flood := func(from, to uint32) {
		for n := from; n < to; n += batch {
			for i := range frames {
				identify(frames[i].Data, n+uint32(i)/2)
			}
			for i, r := range b.plane.Deliver(frames...) {
				if want := []dataplane.Verdict{dataplane.Drop, dataplane.Transmit}[i%2]; r.Verdict != want {
					t.Fatalf("datagram %d, frame %d: verdict %d, want %d", n, i, r.Verdict, want)
				}
			}
			if sent := len(b.plane.Sent()); sent != batch {
				t.Fatalf("datagram %d: %d fragments went after their first, want %d", n, sent, batch)
			}
		}
	}
	flood(0, 20*batch)
	before := heap()
	flood(20*batch, pairs)
	if more := heap() - before; more > 1<<20 {
		t.Errorf("%d bytes more after %d datagrams: %d for each", more, pairs, more/int64(pairs))
	}
	if n := b.counter("drop_fragment"); n != 0 {
		t.Errorf("%d fragments were given up, though there was room", n)
	}
	blocker.fragOffset, blocker.moreFragments, blocker.src = 0, true, "10.255.1.1:7"
	expect(t, "its first, after all", b.send(blocker), "r0")
	if sent := b.plane.Sent(); len(sent) != 1 || b.fate(sent[0]) != "r0" {
		t.Errorf("%d were sent after it", len(sent))
	}
	runtime.KeepAlive(b)
}

// Fragments whose first never comes: 1,024 of them wait, of 4 MB at most, the others are
// given up and counted.
func TestEarlyFragmentFlood(t *testing.T) {
	for _, tt := range []struct {
		size int
		wait int
	}{{16, 1024}, {8000, 4 << 20 / 8020}} {
		t.Run(fmt.Sprint(tt.size), func(t *testing.T) {
			const all = 100_000
			b := newBed(t, director.Options{})
			b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 1)
			f := dataplane.Frame{In: eth0, Data: pkt{proto: "udp", src: "10.1.1.1:0", dst: vip + ":53", size: tt.size, fragID: 1, fragOffset: 3}.frame(t)}
			before := heap()
			for n := range uint32(all) {
				identify(f.Data, n)
				b.plane.Deliver(f)
			}
			if got := int(b.counter("drop_fragment")); got != all-tt.wait {
				t.Errorf("%d were given up, so %d wait, want %d", got, all-got, tt.wait)
			}
			if more := heap() - before; more > 6<<20 {
				t.Errorf("%d bytes more", more)
			}
			// The newest wait, the others do not.
			first := pkt{proto: "udp", src: "10.1.1.1:7", dst: vip + ":53", size: 16, fragID: 1, moreFragments: true}.frame(t)
			for _, n := range []uint32{0, all - 1 - uint32(tt.wait), all - uint32(tt.wait), all - 1} {
				identify(first, n)
				expect(t, "a first", b.deliver(first), "r0")
				if sent, want := len(b.plane.Sent()), n >= all-uint32(tt.wait); (sent > 0) != want { // in pieces
					t.Errorf("datagram %d: %d were sent after their first", n, sent)
				}
			}
			runtime.KeepAlive(b)
		})
	}
}

// Call-IDs that nobody has seen before: no more are remembered than there may be
// templates.
func TestCallIDFlood(t *testing.T) {
	const templates, all = 500, 50_000
	b := newBed(t, director.Options{Connections: 1000, Templates: templates})
	s := persistent(udp(5060), "rr", time.Hour)
	s.OnePacket, s.Persistence.Engine = true, "sip"
	b.service(s, 1)
	call := func(n int) string {
		return b.send(pkt{proto: "udp", src: "10.1.1.1:1", dst: vip + ":5060",
			payload: fmt.Sprintf("INVITE sip:a@b SIP/2.0\r\nCall-ID: %0200d\r\n\r\n", n)})
	}
	for n := range templates {
		expect(t, "a call", call(n), "r0")
	}
	before := heap()
	for n := range all {
		expect(t, "a call", call(templates+n), "r0")
	}
	if more := heap() - before; more > 1<<19 {
		t.Errorf("%d bytes more after %d calls", more, all)
	}
	left := b.counter("templates")
	if left > templates {
		t.Errorf("%d templates", left)
	}
	if n := b.counter("templates_evicted"); n != templates+all-left {
		t.Errorf("%d made room, and %d are left of %d", n, left, templates+all)
	}
	runtime.KeepAlive(b)
}
