package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// firstPacket are starts in which a first packet takes different ways.
func firstPacket() map[string][]string {
	all := maps.Clone(loadPlanes)
	all["marks"] = []string{"--plane", *fast, "--marks", "marks"}
	return all
}

// rules writes what a daemon is to start with, so that no command comes between "ready"
// and the first packet.
func (s *site) rules(service string) {
	s.t.Helper()
	for name, text := range map[string]string{
		"rules": "-A " + service + " -s rr\n-a " + service + " -r 192.168.10.200 -g\n",
		"marks": "*mangle\n-A PREROUTING -p tcp -d 192.168.10.101 --dport 80 -j MARK --set-mark 1\nCOMMIT\n",
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// startRules is start with these rules.
func (s *site) startRules(args []string) *lab.Cmd {
	s.t.Helper()
	service := "-t 192.168.10.101:80"
	args = slices.Clone(args)
	if i := slices.Index(args, "--marks"); i >= 0 {
		service = "-f 1"
		args[i+1] = filepath.Join(s.dir, "marks")
	}
	s.rules(service)
	return s.start(append([]string{"--interface", "eth0", "--rules", filepath.Join(s.dir, "rules")}, args...)...)
}

// A daemon that is ready has all that its packets need: the first one opens no descriptor
// for good, and maps no ring.
func TestFirstPacketOpensNothing(t *testing.T) {
	for name, args := range firstPacket() {
		t.Run(name, func(t *testing.T) {
			s := newPinSite(t)
			pid := s.startRules(args).Process.Pid
			before := s.opened(pid)
			s.send(s.frame(0, 80, "S", 0))
			s.got(0, 1)
			var more []string
			// What is opened for a moment, as for looking after the claims, is not meant.
			for range 20 {
				more = nil
				for what, n := range s.opened(pid) {
					if n > before[what] {
						more = append(more, fmt.Sprintf("%s: %d, then %d", what, before[what], n))
					}
				}
				if more == nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			t.Errorf("for the first packet: %v", more)
		})
	}
}

// opened are a process's descriptors by what they are, and the maps that it has of sockets.
func (s *site) opened(pid int) map[string]int {
	s.t.Helper()
	all := map[string]int{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range links {
		if to, err := os.Readlink(path); err == nil { // it may be closed by now
			what, _, _ := strings.Cut(to, ":")
			all[what]++
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	all["map"] = strings.Count(string(text), "socket:")
	return all
}

// The first round trip after "ready" waits for nothing.
func TestFirstPacketTime(t *testing.T) {
	needsMachine(t)
	const limit = 3 * time.Millisecond
	for name, args := range firstPacket() {
		t.Run(name, func(t *testing.T) {
			var took []time.Duration
			for range 5 {
				s, _ := newLoadSite(t)
				daemon := s.startRules(args)
				began := time.Now()
				c, err := s.dial(5 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				took = append(took, time.Since(began))
				c.Close()
				s.stop(daemon)
			}
			slices.Sort(took)
			t.Logf("%v", took)
			if took[2] > limit {
				t.Errorf("the median is %v", took[2])
			}
		})
	}
}
