package director_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
)

// flood sends one packet each from n addresses that are nobody's, beginning with number from,
// to a service, and returns how many went to a real server.
func (b *bed) flood(from, n int, dst string, packets ...pkt) (forwarded int) {
	if packets == nil {
		packets = []pkt{{flags: "S"}}
	}
	for i := from; i < from+n; i++ {
		for _, p := range packets {
			p.src = fmt.Sprintf("10.%d.%d.%d:%d", 100+i>>16, i>>8&0xff, i&0xff, 1024+int(p.fragID))
			p.dst, p.fragID = dst, 0
			if b.send(p)[0] == 'r' {
				forwarded++
			}
		}
	}
	return forwarded
}

// establish opens a connection as a client does who is there, and returns its real server.
func (b *bed) establish(src, dst string) string {
	b.t.Helper()
	fate := b.send(pkt{src: src, dst: dst, flags: "S"})
	expect(b.t, src+" after SYN", b.send(pkt{src: src, dst: dst, flags: "A"}), fate)
	return fate
}

// shop is what a flood must not hurt: established connections, and clients that come
// meanwhile.
type shop struct {
	*bed
	dst    string
	server map[string]string // by client
}

func (s *shop) open(client string) {
	s.t.Helper()
	fate := s.establish(client, s.dst)
	if fate[0] != 'r' {
		s.t.Fatalf("%s is not served: %s", client, fate)
	}
	s.server[client] = fate
}

func (s *shop) check() {
	s.t.Helper()
	for client, server := range s.server {
		expect(s.t, client, s.send(pkt{src: client, dst: s.dst, flags: "PA"}), server)
	}
}

// Who sends SYNs from addresses that are not his keeps nobody out: half-open connections make
// room, the oldest first. Those that are established stay, and new ones are opened.
func TestFlood(t *testing.T) {
	for _, tt := range []struct {
		name    string
		service ulvs.Service
		packets []pkt
	}{
		{"plain", ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, nil},
		{"persistent", persistent(tcp(80), "rr", 300*time.Second), nil},
		{"persistent, two of a client", persistent(tcp(80), "rr", 300*time.Second), []pkt{{flags: "S"}, {flags: "S", fragID: 1}}},
		{"every port", persistent(tcp(0), "wrr", 300*time.Second), nil},
		{"ended at once", ulvs.Service{ServiceKey: tcp(80), Scheduler: "wlc"}, []pkt{{flags: "S"}, {flags: "FA"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, director.Options{Connections: 512, Templates: 256})
			b.service(tt.service, 4)
			s := &shop{b, vip + ":80", map[string]string{}}
			for i := range 100 {
				s.open(fmt.Sprintf("10.1.1.%d:1000", i))
			}
			for round := range 40 {
				b.flood(round*500, 500, vip+":80", tt.packets...)
				s.open(fmt.Sprintf("10.1.2.%d:1000", round))
				s.check()
				b.move(100 * time.Millisecond)
			}
			for _, name := range []string{"drop_connections_full", "drop_templates_full"} {
				if n := b.counter(name); n > 0 {
					t.Errorf("%s: %d", name, n)
				}
			}
			if b.counter("half_open_evicted") < 10000 {
				t.Errorf("%d half-open connections made room", b.counter("half_open_evicted"))
			}
			if n := b.counter("connections"); n > 512 {
				t.Errorf("%d connections", n)
			}
			b.move(61 * time.Second)
			for i := range 50 {
				s.open(fmt.Sprintf("10.1.3.%d:1000", i))
			}
			s.check()
		})
	}
}

// What was half-open while the tables were nearly empty makes room as all else does, first of
// all, also if its SYN is repeated; and again after a time in which nothing was listed.
func TestFloodOfEmptyTable(t *testing.T) {
	b := newBed(t, director.Options{Connections: 512, Templates: 512})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 4)
	for round := range 3 {
		b.flood(0, 50, vip+":80")
		b.flood(0, 50, vip+":80")
		b.flood(1000, 5000, vip+":80")
		b.establish(fmt.Sprintf("10.2.%d.2:1000", round), vip+":80")
		for _, c := range b.conns() {
			if a := c.Client.Addr().As4(); a[1] == 100 && a[2] == 0 && a[3] < 50 {
				t.Fatalf("%v, of the first, is there still", c.Client)
			}
		}
		if n := b.counter("drop_connections_full"); n > 0 || b.counter("connections") > 512 {
			t.Errorf("%d connections, %d drops", b.counter("connections"), n)
		}
		for range 2 {
			b.move(70 * time.Second)
			b.flood(7000, 1, vip+":80") // a batch, after which nothing is listed
		}
	}
	if n := b.counter("half_open_evicted"); n < 3*4500 {
		t.Errorf("%d half-open connections made room", n)
	}
}

// A client who has answered keeps its real server for the persistent timeout, also when its
// connections are over, whatever flood there is meanwhile.
func TestFloodPersistence(t *testing.T) {
	b := newBed(t, director.Options{Connections: 512, Templates: 128})
	b.service(persistent(tcp(0), "rr", 300*time.Second), 4)
	server := map[string]string{}
	for i := range 60 {
		client := fmt.Sprintf("10.1.1.%d", i)
		server[client] = b.establish(client+":1000", vip+":80")
		b.send(pkt{src: client + ":1000", dst: vip + ":80", flags: "RA"})
	}
	b.move(11 * time.Second) // the connections are over
	for round := range 20 {
		b.flood(round*500, 500, vip+":80")
		b.move(10 * time.Second)
	}
	for client, want := range server {
		expect(t, client+" at another port", b.send(pkt{src: client + ":1001", dst: vip + ":443", flags: "S"}), want)
	}
	if b.counter("templates_unanswered") == 0 || b.counter("templates_evicted") != b.counter("templates_unanswered") {
		t.Errorf("%d templates made room, of which %d of nobody who answered", b.counter("templates_evicted"), b.counter("templates_unanswered"))
	}
}

// A template of a client who has answered goes for a SYN only where there is no other, and one
// that controls a connection of his never.
func TestFloodTakesIdleTemplatesLast(t *testing.T) {
	b := newBed(t, director.Options{Connections: 512, Templates: 64})
	b.service(persistent(tcp(80), "rr", 300*time.Second), 4)
	for i := range 64 {
		client := fmt.Sprintf("10.1.1.%d:1000", i)
		b.establish(client, vip+":80")
		if i >= 60 {
			b.send(pkt{src: client, dst: vip + ":80", flags: "RA"})
		}
	}
	b.move(11 * time.Second)
	if n := b.flood(0, 10, vip+":80"); n != 10 {
		t.Errorf("%d of 10 SYNs were forwarded", n)
	}
	if n := b.counter("templates_evicted") - b.counter("templates_unanswered"); n < 1 || n > 4 {
		t.Errorf("%d templates of clients that had answered made room", n)
	}
	for i := range 60 {
		client := fmt.Sprintf("10.1.1.%d:1000", i)
		if fate := b.send(pkt{src: client, dst: vip + ":80", flags: "PA"}); fate[0] != 'r' {
			t.Errorf("%s: %s", client, fate)
		}
	}
}

// A flood of UDP packets, of which nobody sends a second, makes room too.
func TestFloodUDP(t *testing.T) {
	b := newBed(t, director.Options{Connections: 256})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 4)
	talk := func(i int) string {
		return b.send(pkt{proto: "udp", src: fmt.Sprintf("10.1.1.%d:1000", i), dst: vip + ":53"})
	}
	server := map[int]string{}
	for i := range 100 {
		server[i] = talk(i)
		talk(i)
	}
	if n := b.flood(0, 5000, vip+":53", pkt{proto: "udp"}); n != 5000 {
		t.Errorf("%d of 5000 were forwarded", n)
	}
	for i, want := range server {
		expect(t, fmt.Sprint("client ", i), talk(i), want)
	}
}

// From seven eighths of the table on, what nobody has answered for three seconds makes room,
// before the table is full; and below that nothing does, as the kernel has it.
func TestNearlyFull(t *testing.T) {
	b := newBed(t, director.Options{Connections: 800})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 4)
	b.flood(0, 700, vip+":80")
	b.move(30 * time.Second)
	if n := b.counter("half_open_evicted"); n != 0 {
		t.Errorf("of 700 connections in a table for 800, %d made room", n)
	}
	b.flood(700, 60, vip+":80")
	b.move(time.Second)
	if n := b.counter("connections"); n < 700 || n > 701 {
		t.Errorf("%d connections, of 760 of which 700 are old; want 700", n)
	}
	b.flood(1000, 80, vip+":80")
	b.move(time.Second)
	if n, young := b.counter("half_open_evicted"), 60+80; n != uint64(760+80-700) || b.counter("connections") < uint64(young) {
		t.Errorf("%d made room, want %d", n, 760+80-700)
	}
}

// A flood may be faster than a plane that forwards by itself sees the last of what has made
// room: then no slot is free for a while. Who comes after the flood is served at once, though
// what the flood has left waits still.
func TestFloodBeforeGrace(t *testing.T) {
	for _, service := range []ulvs.Service{{ServiceKey: tcp(80), Scheduler: "rr"}, persistent(tcp(80), "rr", 300*time.Second)} {
		for _, connections := range []int{2048, 20000} {
			t.Run(fmt.Sprint(service, " ", connections), func(t *testing.T) {
				b := emptyBed(t)
				b.begin(director.Options{Connections: connections, Templates: connections}, dataplanetest.NewKeeper(b.plane))
				b.service(service, 4)
				s := &shop{b, vip + ":80", map[string]string{}}
				for i := range 50 {
					s.open(fmt.Sprintf("10.1.1.%d:1000", i))
				}
				b.move(time.Second)
				// Nothing ticks from here on: no slot is given back.
				forwarded := b.flood(0, 2*connections, s.dst)
				full := b.counter("drop_connections_full") + b.counter("drop_templates_full")
				t.Logf("%d of %d SYNs were forwarded", forwarded, 2*connections)
				if full == 0 {
					t.Error("there were slots for all: the flood was none")
				}
				for i := range 50 {
					b.plane.Advance(20 * time.Millisecond)
					s.open(fmt.Sprintf("10.1.2.%d:1000", i))
				}
				s.check()
				for i := range 600 {
					b.move(time.Millisecond)
					s.open(fmt.Sprintf("10.1.%d.%d:1000", 3+i/200, i%200))
				}
				s.check()
			})
		}
	}
}

// That the tables are nearly full is said once in the log, and once that they have room
// again.
func TestFloodIsLogged(t *testing.T) {
	var log bytes.Buffer
	b := newBed(t, director.Options{Connections: 256, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b.service(persistent(tcp(80), "rr", 300*time.Second), 4)
	for round := range 20 {
		b.flood(round*200, 200, vip+":80")
		b.move(time.Second)
	}
	if n := strings.Count(log.String(), "nearly full"); n != 1 {
		t.Errorf("said %d times\n%s", n, &log)
	}
	for range 70 {
		b.move(time.Second)
	}
	if n := strings.Count(log.String(), "have room again"); n != 1 {
		t.Errorf("its end was said %d times\n%s", n, &log)
	}
	b.flood(0, 200, vip+":80")
	b.flood(1000, 200, vip+":80")
	b.move(time.Second)
	if n := strings.Count(log.String(), "nearly full"); n != 2 {
		t.Errorf("said %d times, of two floods\n%s", n, &log)
	}
}
