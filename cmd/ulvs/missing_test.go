package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// A daemon starts with the interfaces that are there, warns of the others, and takes them when
// they come.
func TestInterfaceMissingAtStart(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.addFar()
		s.begin("eth0,eth1")
		s.once("WARN", "interface is not there: going on without")
		s.shows("eth1", "not there")
		c := s.open(s.client)
		s.cableFar()
		s.once("INFO", "interface is there, and taken")
		if s.plane != "afpacket" {
			s.once("INFO", "the program is in front of an interface that was not there")
		}
		s.forwards(s.open(s.far))
		s.forwards(c)
		s.quiet("interface is not there")
	})
}

// newKeptSite is a live site whose daemons keep their state, and the options for that.
func newKeptSite(t *testing.T, plane string) (*liveSite, []string) {
	t.Helper()
	kept := newPinSite(t)
	s := &liveSite{site: kept.site, plane: plane}
	answers(t, s.server, netip.MustParseAddr(loadVIP))
	s.knows(s.server, "eth0", "192.168.10.1", s.client.MAC())
	s.up("eth0")
	return s, []string{"--pin", kept.pins}
}

// A daemon that is started anew while its only interface is gone goes on with what was kept,
// whether the interface went before the daemon or after it, and takes it when it is back.
func TestInterfaceMissingAtRestart(t *testing.T) {
	t.Parallel()
	for _, plane := range []string{"tcx", "xdp"} {
		t.Run(plane, func(t *testing.T) { missingAtRestart(t, plane) })
	}
}

func missingAtRestart(t *testing.T, plane string) {
	t.Parallel()
	s, pin := newKeptSite(t, plane)
	daemon := s.begin("eth0", pin...)
	c := s.open(s.client)
	for i, before := range []bool{true, false} {
		if before {
			s.remove("eth0")
			s.once("WARN", "interface was removed")
		}
		s.stop(daemon)
		if !before {
			s.remove("eth0")
		}
		if out, _ := s.ulvs("", "ulvs", "status", "--pin", pin[1]); !regexp.MustCompile(`(?m)^eth0 +not there; the next daemon takes it when it comes\n` +
			`forwarding +none: no interface has a program$`).MatchString(out) {
			t.Errorf("what the daemon left: %s", out)
		}
		daemon = s.begin("eth0", pin...)
		s.once("WARN", "interface is not there: going on without")
		if !strings.Contains(s.log.String(), `"adopted connections"=1 `) {
			t.Errorf("it does not go on with the connection: %s", s.log)
		}
		s.must(s.lab.Cable(s.director, "eth0", lab.MAC(uint32(0x7700+i))))
		s.up("eth0")
		s.once("INFO", "interface is there, and taken")
		s.forwards(c)
	}
	s.forwards(s.open(s.client))
	// Who never had an interface of that name is told so.
	s.stop(daemon)
	words := append([]string{"ulvs", "run", "--control", filepath.Join(s.dir, "ulvs.sock"), "--interface", "eth9"}, pin...)
	if out, code := s.ulvs("", words...); code == 0 || !strings.Contains(out, `there is no interface eth9`) {
		t.Errorf("an interface that never was: %d, %s", code, out)
	}
}

// An interface that is renamed is the same to the next daemon, by the name that was given, by
// takeover too; and by its new name.
func TestInterfaceRenamedAndRestarted(t *testing.T) {
	for _, plane := range []string{"tcx", "xdp"} {
		t.Run(plane, func(t *testing.T) { renamedAndRestarted(t, plane) })
	}
}

func renamedAndRestarted(t *testing.T, plane string) {
	t.Parallel()
	s, pin := newKeptSite(t, plane)
	daemon := s.begin("eth0", pin...)
	c := s.open(s.client)
	s.must(s.director.Netlink().LinkSetName(s.link("eth0"), "front0"))
	s.once("WARN", "interface was renamed")
	next := s.begin("eth0", append(pin, "--takeover")...)
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon that was replaced: %v", err)
	}
	s.once("WARN", "interface has been renamed")
	s.shows("front0", "given as eth0")
	s.forwards(c)
	s.stop(next)
	next = s.begin("eth0", pin...)
	s.once("WARN", "interface has been renamed")
	s.forwards(c)
	s.stop(next)
	s.begin("front0", pin...)
	s.forwards(c)
	s.forwards(s.open(s.client))
	s.quiet()
	if out := s.tables(); out != s.tablesFor("front0") {
		t.Errorf("the tables: %s", out)
	}
}

// An interface that is removed and made anew many times leaves nothing behind: descriptors,
// mappings, goroutines, pins and tables are those of a daemon that has seen none of it.
func TestInterfaceLeaksNothing(t *testing.T) {
	for _, plane := range []string{"afpacket", "tcx", "xdp, af-xdp"} {
		t.Run(plane, func(t *testing.T) {
			s, pin := newKeptSite(t, plane)
			daemon := s.begin("eth0", pin...)
			c := s.open(s.client)
			s.forwards(c)
			before := s.opened(daemon.Process.Pid)
			tables, pins := s.tables(), pinned(t, pin[1])
			const times = 12
			for i := range times {
				s.remove("eth0")
				s.must(s.lab.Cable(s.director, "eth0", lab.MAC(uint32(0x7700+i))))
				s.up("eth0")
				s.times(i+1, "interface is there, and taken")
				if i%4 == 0 {
					s.must(echoed(c))
				}
			}
			s.forwards(c)
			var more []string
			for began := time.Now(); time.Since(began) < patience; time.Sleep(50 * time.Millisecond) {
				more = nil
				for what, n := range s.opened(daemon.Process.Pid) {
					if n > before[what] {
						more = append(more, fmt.Sprintf("%s: %d, then %d", what, before[what], n))
					}
				}
				if more == nil {
					break
				}
			}
			if more != nil {
				t.Errorf("after %d times: %v", times, more)
			}
			if out := s.tables(); out != tables {
				t.Errorf("the tables: %s, then %s", tables, out)
			}
			if now := pinned(t, pin[1]); now != pins {
				t.Errorf("the pins: %s, then %s", pins, now)
			}
			after := s.goroutines(daemon)
			if fresh := s.goroutines(s.begin("eth0", pin...)); after > fresh+times/2 {
				t.Errorf("%d goroutines, and %d of a daemon that has just begun", after, fresh)
			}
		})
	}
}

// times waits until the daemon has said a text so many times.
func (s *liveSite) times(n int, text string) {
	s.t.Helper()
	for began := time.Now(); strings.Count(s.log.String(), text) < n; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			s.t.Fatalf("it has not said %q %d times: %s", text, n, s.log)
		}
	}
}

// pinned are the names of what is pinned.
func pinned(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// goroutines ends a daemon by SIGQUIT, which has it say what its goroutines do, and counts
// those that are not Go's own.
func (s *liveSite) goroutines(daemon *lab.Cmd) int {
	s.t.Helper()
	_ = daemon.Process.Signal(unix.SIGQUIT)
	_ = daemon.Wait() // by a signal
	list := regexp.MustCompile(`(?m)^goroutine \d+ `).FindAllString(daemon.Stderr.(*said).String(), -1)
	if len(list) == 0 {
		s.t.Errorf("it does not say what its goroutines do: %s", daemon.Stderr)
	}
	return len(list)
}
