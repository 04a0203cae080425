package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/shtab"
)

// mostRSTs a second is more than any interface can carry.
const mostRSTs = 1_000_000_000

// checkOptions says what is wrong with the options of "ulvs run" by themselves.
func (d *daemon) checkOptions() error {
	if !slices.Contains([]string{"auto", "afpacket", "tcx", "xdp"}, d.plane) {
		return fmt.Errorf("--plane %s: there are auto, afpacket, tcx and xdp", d.plane)
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
	if err := d.checkWhile(); err != nil {
		return err
	}
	if d.follow && (d.marks != "" || d.marks6 != "") {
		return errors.New("--follow-marks takes the rules from the host: leave --marks and --marks6 out")
	}
	return nil
}

// whileAuto is the word of --while-address for all virtual addresses.
const whileAuto = "auto"

func (d *daemon) checkWhile() error {
	if d.whileSaid && len(d.while) == 0 {
		return errors.New("--while-address is empty: give addresses, or auto")
	}
	for _, word := range d.while {
		if word == whileAuto && len(d.while) == 1 {
			return nil
		}
		a, err := netip.ParseAddr(word)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("--while-address %s: give addresses that a host can have, as 192.0.2.1,2001:db8::1, or auto", strings.Join(d.while, ","))
		}
	}
	return nil
}

// whileAddress is what director.Options call --while-address.
func (d *daemon) whileAddress() (w director.While) {
	for _, word := range d.while {
		if word == whileAuto {
			return director.While{Virtual: true}
		}
		a, _ := netip.ParseAddr(word)
		w.Addrs = append(w.Addrs, a.Unmap())
	}
	return w
}
