package auto

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/tcx"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/hostlink"
)

// KeptError says that what an earlier process left would be thrown away, which Options.Fresh
// permits. Nothing was changed.
type KeptError struct {
	// Kept is what was left, and Why is why it cannot be gone on with.
	Kept *xdp.Kept
	Why  error
}

// Error says both.
func (e *KeptError) Error() string {
	return fmt.Sprintf("%s, which this start would throw away: %v", e.Kept, e.Why)
}

// Unwrap returns Why.
func (e *KeptError) Unwrap() error { return e.Why }

// refuse returns a KeptError if something of value is kept that is not to be thrown away.
func (o *Options) refuse(why error) error {
	if o.Pins == "" || o.Fresh {
		return nil
	}
	there, unreadable := xdp.ReadKept(o.Pins)
	if there == nil || there.Empty() {
		return nil
	}
	var misfit *accel.Misfit
	switch {
	case unreadable != nil:
		why = unreadable
	case errors.As(why, &misfit): // not how it came here
		why = misfit.Why
	}
	return &KeptError{Kept: there, Why: why}
}

// clear removes what an earlier process left, so that it does not go on forwarding beside
// this one, if that is permitted or nothing of value is there.
func (p *Opened) clear(why error) error {
	o := &p.options
	if o.Pins == "" {
		return nil
	}
	if err := o.refuse(why); err != nil {
		return err
	}
	there, err := xdp.ReadKept(o.Pins)
	if there == nil {
		return err
	}
	names, _, err := detach(o.Pins, "")
	if err == nil && p.ingress == nil { // else those are this process's by now
		_, err = undo(names)
	}
	if err != nil {
		return err
	}
	if !o.Fresh {
		p.Lost = why
	}
	return nil
}

// Check says what would keep Open from going on with what an earlier process keeps, and
// changes nothing: for a daemon that is to end first. The sizes are director.Sizes.
func Check(o Options, sizes map[string]int) error {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	links, err := hostlink.Resolve(o.Interfaces, xdp.KeptInterfaces(o.Pins, o.Interfaces))
	if err != nil {
		return err
	}
	if err := o.guard(links, tcx.Leftovers()); err != nil {
		return err
	}
	for _, l := range links {
		if l.There() && !xdp.HasPinned(o.Pins, l.Given) && afpacket.Reserved(l.Name) {
			return fmt.Errorf("another ulvs has interface %s and keeps nothing there to go on with: end it, or give other interfaces", l.Name)
		}
	}
	if err := xdp.Check(o.Interfaces); err != nil {
		return o.join(err)
	}
	if o.Pins == "" || o.Fresh {
		return nil
	}
	if err := xdp.CheckKept(o.Pins, sizes); err != nil {
		return o.join(&accel.Misfit{Why: err})
	}
	return nil
}

// join returns a KeptError if there is reason to, and otherwise why.
func (o *Options) join(why error) error {
	if err := o.refuse(why); err != nil {
		return err
	}
	if o.forced() {
		return why
	}
	return nil
}

// guard refuses interfaces that have the program of another daemon, which forwards by
// itself even where that has ended. Some have had a private interface before this process began.
func (o *Options) guard(links []dataplane.Link, private []int) error {
	for _, l := range links {
		if !l.There() {
			continue
		}
		name := l.Name
		owner, err := xdp.OwnerOf(name, o.Pins, tcx.Programs)
		if err != nil {
			return err
		}
		hidden := owner == xdp.OwnerHidden || owner == xdp.OwnerHiddenNeighbor
		if hidden && (afpacket.Leftover(name) || slices.Contains(private, l.Index) && !xdp.HasPinned(o.Pins, l.Given)) {
			owner = xdp.OwnerULVS
		}
		switch {
		case owner == xdp.OwnerULVS:
			return fmt.Errorf("interface %s: %w", name, xdp.ErrTaken)
		case owner == xdp.OwnerHidden && o.Plane != AFPacket:
			return fmt.Errorf("interface %s: %w", name, xdp.ErrHidden)
		case hidden:
			o.Logger.Warn("a BPF program is in front of an interface, which this process may not look at (that takes CAP_SYS_ADMIN): if a ulvs daemon has left it, it forwards packets that this one does not see", "interface", name)
		}
	}
	return nil
}

// Detach removes what is pinned in a folder, programs included; and the claims on its
// interfaces, on others, and those of an owner (Options.Owner). It reports whether there
// was anything.
func Detach(pins, owner string, interfaces ...string) (found bool, err error) {
	for _, name := range interfaces {
		if afpacket.Reserved(name) {
			return false, fmt.Errorf("interface %s: a daemon that runs has it: end that first", name)
		}
	}
	names, found, err := detach(pins, owner, interfaces...)
	private, failed := undo(names)
	return found || private, errors.Join(err, failed)
}

// detach is Detach but for the ingress, and returns all interfaces that it has to do with.
func detach(pins, owner string, interfaces ...string) (names []string, found bool, err error) {
	if _, err = os.Stat(pins); err == nil {
		found = true
		names, err = xdp.Detach(pins, tcx.Programs)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	names = append(interfaces, names...)
	withdrawn, failed := afpacket.Withdraw(owner, names...)
	return names, found || len(withdrawn) > 0, errors.Join(err, failed)
}

// undo removes what is at the ingress of interfaces without a file for it, and their private interfaces.
func undo(interfaces []string) (found bool, err error) {
	var numbers []int
	for _, name := range interfaces {
		if ifi, err := net.InterfaceByName(name); err == nil {
			numbers = append(numbers, ifi.Index)
		}
	}
	filtered, err := tcx.Unfilter(xdp.ProgramName, numbers...)
	private, failed := tcx.Remove(numbers...)
	return filtered || private, errors.Join(err, failed)
}
