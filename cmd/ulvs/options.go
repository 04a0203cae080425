package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ulvs/ulvs/internal/shtab"
)

// mostRSTs a second is more than any interface can carry.
const mostRSTs = 1_000_000_000

// checkOptions says what is wrong with the options of "ulvs run" by themselves.
func (d *daemon) checkOptions() error {
	if !slices.Contains([]string{"auto", "afpacket", "xdp"}, d.plane) {
		return fmt.Errorf("--plane %s: there are auto, afpacket and xdp", d.plane)
	}
	if _, ok := socketUses[d.sockets]; !ok {
		return fmt.Errorf("--af-xdp %s: there are auto, on and off", d.sockets)
	}
	if len(d.interfaces) == 0 {
		return errors.New("give --interface IF: the interfaces whose packets are balanced (ip link lists them)")
	}
	for i, name := range d.interfaces {
		if name == "" {
			return fmt.Errorf("--interface %q: a name is empty; give them as IF,IF", strings.Join(d.interfaces, ","))
		}
		if slices.Contains(d.interfaces[:i], name) {
			return fmt.Errorf("--interface %s: %s is there twice; give each interface once", strings.Join(d.interfaces, ","), name)
		}
	}
	if d.connections < 1 || d.connections > shtab.MaxEntries {
		return fmt.Errorf("--connections %d: give 1 to %d", d.connections, shtab.MaxEntries)
	}
	if d.templates < 0 || d.templates > shtab.MaxEntries {
		return fmt.Errorf("--templates %d: give 1 to %d, or 0 for the default", d.templates, shtab.MaxEntries)
	}
	if d.rsts < 0 || d.rsts > mostRSTs {
		return fmt.Errorf("--rst-limit %d: give 1 to %d, or 0 for no limit", d.rsts, mostRSTs)
	}
	// An AF_XDP ring's bounds (internal/xsk).
	if d.ring < 32 || d.ring > 65536 || d.ring&(d.ring-1) != 0 {
		return fmt.Errorf("--af-xdp-ring %d: give a power of two from 32 to 65536", d.ring)
	}
	if d.busyPoll < 0 || d.busyPoll > time.Second || d.busyPoll%time.Microsecond != 0 {
		return fmt.Errorf("--af-xdp-busy-poll %v: give whole microseconds, up to a second", d.busyPoll)
	}
	if d.follow && (d.marks != "" || d.marks6 != "") {
		return errors.New("--follow-marks takes the rules from the host: leave --marks and --marks6 out")
	}
	return nil
}
