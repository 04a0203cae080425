package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/google/nftables"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
)

// remains says what goes on without an answer from a daemon, as far as pins and nftables
// tell. unanswered is the error of a command to it.
func remains(pins string, unanswered error) (facts []ulvs.Fact, counters map[string]uint64) {
	counters = map[string]uint64{}
	say := func(name, format string, args ...any) {
		facts = append(facts, ulvs.Fact{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	ended := errors.Is(unanswered, ulvs.ErrUnreachable)
	r, err := xdp.Inspect(pins)
	tables := claimTables()
	if ended && errors.Is(err, fs.ErrNotExist) && len(tables) == 0 {
		return nil, counters // nothing is left
	}
	if ended {
		say("daemon", "none runs; this is what it left")
	} else {
		say("daemon", "does not answer; this is what goes on without it")
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		say("forwarding", "none: nothing is pinned in %s, and without a daemon nobody forwards", pins)
	case err != nil:
		say("forwarding", "not known: %v", err)
	default:
		remaining(r, ended, say, counters)
		say("pinned", "%s", pins)
	}
	if len(tables) > 0 {
		say("nftables", "%s: the host answers no packet of the services", strings.Join(tables, ", "))
	}
	return facts, counters
}

// remaining says what is pinned.
func remaining(r *xdp.Remains, ended bool, say func(string, string, ...any), counters map[string]uint64) {
	for _, i := range r.Interfaces {
		say(i.Name, "%s: its program is in place", i.Value)
	}
	for _, name := range r.Gone {
		say(name, "not there; the next daemon takes it when it comes")
	}
	switch {
	case len(r.Interfaces) == 0:
		say("forwarding", "none: no interface has a program")
	case r.Silent < 0:
		say("forwarding", "connections; the daemon's last sign of life is not known")
	case r.Alone:
		say("forwarding", "connections go on, new ones wait for a daemon; its last sign of life is %v old", r.Silent.Round(time.Second/10))
	default:
		say("forwarding", "connections go on; the daemon's last sign of life is %v old", r.Silent.Round(time.Second/100))
	}
	if r.Journal != nil {
		if services, servers, err := director.CountJournal(r.Journal); err == nil {
			say("services", "%d, real servers %d", services, servers)
		}
	}
	for name, n := range map[string]int{"connections": r.Connections, "templates": r.Templates} {
		if n >= 0 {
			counters[name] = uint64(n)
		}
	}
	switch {
	case !ended:
	case r.OtherVersion:
		say("to do", `it is not of this version: "ulvs run" of the one that left it, with the options that it had, goes on with all this; "ulvs detach" takes it away`)
	default:
		say("to do", `"ulvs run" with the options that it had goes on with all this, "ulvs detach" takes it away`)
	}
}

// claimTables are the nftables tables by which daemons keep the host away, as far as they
// can be seen.
func claimTables() (names []string) {
	if os.Geteuid() != 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return nil
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, "ulvs-") {
			names = append(names, "netdev "+t.Name)
		}
	}
	return names
}
