package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The program opens connections by itself, in round robin's order and by templates,
// also while there is no daemon; all of them are listed and counted, and the next
// daemon goes on where the scheduler was.
func TestOpensAlone(t *testing.T) {
	s := newPinSite(t)
	daemon := s.run("--af-xdp", "on")
	s.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s rr
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.201 -g
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.202 -g
		ipvsadm -A -t 192.168.10.101:0 -s rr -p 300
		ipvsadm -a -t 192.168.10.101:0 -r 192.168.10.201 -g
		ipvsadm -a -t 192.168.10.101:0 -r 192.168.10.202 -g
	`)
	const flows = 200
	number := uint32(1)
	// The newest server comes first.
	order := func(i uint32) int { return 2 - int(i%3) }
	check := func(what string, from, n uint32) {
		t.Helper()
		for i := range n {
			s.send(s.frame(1000+from+i, 80, "S", number+i))
		}
		for i, at := range s.got(number, int(n)) {
			if want := order(from + uint32(i)); at != want {
				t.Fatalf("%s: connection %d went to server %d, not %d", what, from+uint32(i), at, want)
			}
		}
		number += n
	}
	// One after the other: a packet that is Go's (those before the servers' MAC addresses
	// are known, and one now and then when Go has no time to decide ahead) is overtaken by
	// a newer one.
	for i := range uint32(flows) {
		check("with a daemon", i, 1)
	}
	opened := s.status()["opened_by_plane"]
	if opened < flows*9/10 {
		t.Errorf("the program opened %d of %d connections", opened, flows)
	}
	columns := func(want int) {
		t.Helper()
		if out := s.output("ipvsadm -Ln -t 192.168.10.101:80"); strings.Count(out, fmt.Sprintf(" 1      %-10d 0 ", want)) < 1 {
			t.Errorf("no server has %d active connections:\n%s", want, out)
		}
	}
	columns(flows / 3)

	// Clients of the service of every port, whose ports are all of one server. They come
	// in turn: the newest server is the first one's.
	clients := func(first, n uint32, ports ...uint16) {
		t.Helper()
		for client := first; client < first+n; client++ {
			for _, port := range ports {
				s.send(s.frame(client, port, "S", number))
				if got, want := s.got(number, 1)[0], 2-int(client%2); got != want {
					t.Errorf("port %d of client %d went to server %d, not %d", port, client, got, want)
				}
				number++
			}
		}
	}
	clients(0, 10, 1000, 2000)
	if n := s.status()["opened_by_plane"] - opened; n < 15 {
		t.Errorf("the program opened %d of 20 connections by template", n)
	}

	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	number = s.awaitAlone(number)
	const alone = 40
	check("without a daemon", flows, alone)
	clients(0, 10, 3000)
	clients(10, 10, 1000, 4000)
	for i := range uint32(alone) {
		s.send(s.frame(1000+flows+i, 80, "A", number+i))
	}
	for i, at := range s.got(number, alone) {
		if at != order(flows+uint32(i)) {
			t.Errorf("the second packet of connection %d went to server %d", i, at)
		}
	}
	number += alone

	s.run("--af-xdp", "on")
	const conns, templates = flows + alone + 50, 20
	out := s.output("ipvsadm -Lnc")
	if c, n := strings.Count(out, "SYN_RECV"), strings.Count(out, " NONE "); c+strings.Count(out, "ESTABLISHED") != conns || n != templates {
		t.Errorf("%d connections in SYN_RECV and %d templates, want %d and %d:\n%s", c, n, conns, templates, out)
	}
	if n := strings.Count(out, "ESTABLISHED"); n < alone {
		t.Errorf("without a daemon %d connections were established, of %d that had an ACK", n, alone)
	}
	columns((flows + alone) / 3)
	for i := range uint32(30) {
		check("with the next daemon", flows+alone+i, 1)
	}
	clients(0, 24, 5000)
}

// awaitAlone waits until the program knows that there is no daemon: it then forwards an
// ACK too, of a connection of which it has seen the SYN alone. It returns the next number.
func (s *pinSite) awaitAlone(number uint32) uint32 {
	s.t.Helper()
	for begin := time.Now(); ; number++ {
		s.send(s.frame(1000, 80, "A", number))
		time.Sleep(20 * time.Millisecond)
		s.mu.Lock()
		_, forwarded := s.seen[number]
		s.mu.Unlock()
		if forwarded {
			return number + 1
		}
		if time.Since(begin) > patience {
			s.t.Fatalf("after %v the program still waits for a daemon", patience)
		}
	}
}
