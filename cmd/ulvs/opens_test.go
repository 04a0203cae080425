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
				t.Fatalf("%s: connection %d went to server %d, not %d", what, i, at, want)
			}
		}
		number += n
	}
	// While the servers' MAC addresses are not known, Go has the packets, and one that
	// waits for it could be overtaken by a newer one.
	for i := range uint32(3) {
		check("at the beginning", i, 1)
	}
	check("with a daemon", 3, flows-3)
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

	// One client of the service of every port: its first connection is Go's.
	client := func(port uint16, at int) int {
		s.send(s.frame(9, port, "S", number))
		got := s.got(number, 1)[0]
		if number++; at >= 0 && got != at {
			t.Errorf("port %d went to server %d, not %d", port, got, at)
		}
		return got
	}
	home := client(1000, -1)
	for port := range uint16(20) {
		client(1001+port, home)
	}
	if n := s.status()["opened_by_plane"]; n < opened+20 {
		t.Errorf("the program opened %d of 20 connections by template", n-opened)
	}

	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	time.Sleep(2500 * time.Millisecond) // nobody has shown himself
	const alone = 40
	check("without a daemon", flows, alone)
	for port := range uint16(20) {
		client(2001+port, home)
	}
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
	if out := s.output("ipvsadm -Lnc"); strings.Count(out, "SYN_RECV") != flows+alone+41 {
		t.Errorf("%d connections in SYN_RECV, want %d:\n%s", strings.Count(out, "SYN_RECV"), flows+alone+41, out)
	}
	columns((flows + alone) / 3)
	check("with the next daemon", flows+alone, 30)
	client(3001, home)
}
