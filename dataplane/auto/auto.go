// Package auto opens the plane that fits, as "ulvs run --plane auto" does: XDP where the driver is fit for it, and
// TCX behind it and elsewhere, with what outlives the process, where that is permitted and works, and
// AF_PACKET otherwise. Who embeds a plane by name needs it not, and links neither eBPF nor nftables then.
package auto

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/tcx"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/hostlink"
)

// The names of planes, for Options.
const (
	Auto     = "auto"
	XDP      = "xdp"
	TCX      = "tcx"
	AFPacket = "afpacket"
)

// Programs know private interfaces by their MTU.
var _ = [1]struct{}{}[tcx.MTU-xdp.PrivateMTU]

// Options say which plane is opened, and on what. Only Interfaces is required.
type Options struct {
	// Interfaces are the names of the Ethernet interfaces whose packets are balanced. One
	// at least must be there, or have been an earlier process's; others are taken when they
	// come.
	Interfaces []string
	// Plane is Auto, XDP, TCX or AFPacket; "" is Auto.
	Plane string
	// MAC is one more unicast address that is accepted on all of them (VRRP's); the zero
	// value means none.
	MAC dataplane.MAC
	// Pins is a folder in a BPF file system, made if it is not there, in which connections,
	// services and programs are kept for the next process; "" keeps nothing. What an
	// earlier process left there, services at least, and cannot be gone on with, is not
	// thrown away: Open's error is a *KeptError then. Fresh begins without what is there.
	Pins  string
	Fresh bool
	// Forget keeps nothing in Pins, where only what an earlier process left is looked for.
	// It goes without saying for AFPacket.
	Forget bool
	// Owner, if not "", names the daemon, which puts its name to what it leaves; so the
	// next one finds that also on interfaces that it is not given.
	Owner string
	// Words say how the daemon was started. They are kept in Pins, for KeptError.
	Words string
	// Sockets, Ring and BusyPoll are xdp.Options'.
	Sockets  xdp.SocketUse
	Ring     int
	BusyPoll time.Duration
	// Standby says that services are served only while the host has an address (director.While): the
	// host has it a moment before the process knows, and is kept away by nftables on any plane.
	Standby bool
	// Logger is told what an operator should know; nil means slog.Default().
	Logger *slog.Logger
}

// Opened is a plane that Open has opened.
type Opened struct {
	// Plane is open, and brings its Resolver (dataplane.Resolving).
	Plane dataplane.Plane
	// Pins are Options.Pins, or "" where nothing is kept.
	Pins string
	// Lost is why what an earlier process left, which had no services, could not be gone
	// on with; nil where nothing was lost.
	Lost error
	// Slower is why packets are taken by AF_PACKET where Auto was asked for; or nil.
	Slower error

	options Options
	slow    *afpacket.Plane
	fast    *xdp.Plane // or nil
	ingress *tcx.Hook  // or nil
}

// forced reports whether no other plane than the one that was asked for is taken.
func (o *Options) forced() bool { return o.Plane == XDP || o.Plane == TCX }

// unhook gives the hook of a plane that never ran back.
func (p *Opened) unhook() {
	if p.ingress != nil {
		p.ingress.Abandon()
		p.ingress = nil
	}
}

// ways are in which an option's plane is tried to be had, one after the other: TCX is with XDP in front of it
// where that fits.
func (o *Options) ways() []string {
	if o.Plane == Auto {
		return []string{TCX, XDP, AFPacket}
	}
	return []string{o.Plane}
}

// Interfaces are the names that the interfaces have now, or had when they were last there.
func (p *Opened) Interfaces() (names []string) {
	for _, l := range p.slow.Links() {
		names = append(names, cmp.Or(l.Name, l.Given))
	}
	return names
}

// Plane is what Open opens.
type Plane = dataplane.Plane

// Open opens a plane, and has begin make of it what its packets go to, which tries it
// (director.New). Where that fails and another plane may be taken, it is called again with
// that one. The error is begin's last, or says what could not be opened; everything is
// given back then, and what an earlier process left is as it was.
func Open(o Options, begin func(Plane) error) (*Opened, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Plane == "" {
		o.Plane = Auto
	}
	if o.Plane != Auto && o.Plane != XDP && o.Plane != TCX && o.Plane != AFPacket {
		return nil, fmt.Errorf("plane %s: there are %s, %s, %s and %s", o.Plane, Auto, AFPacket, TCX, XDP)
	}
	var slower error
	for ways := o.ways(); ; ways = ways[1:] {
		p := &Opened{options: o, Slower: slower}
		err := p.try(ways[0], begin)
		if err == nil {
			return p, nil
		}
		final := errors.Is(err, xdp.ErrTaken) || errors.Is(err, xdp.ErrBusy) || errors.As(err, new(*KeptError))
		if final || len(ways) == 1 {
			return nil, err
		}
		slower = cmp.Or(slower, err)
	}
}

// try opens a plane in one way.
func (p *Opened) try(way string, begin func(Plane) error) (err error) {
	o := &p.options
	var tap func(ifindex int) (int, error)
	private := tcx.Leftovers()
	if way == TCX {
		hook, err := tcx.New(xdp.HostMark)
		if err != nil {
			return xdp.Permitted(err)
		}
		p.ingress, tap = hook, hook.Private
	}
	p.slow, err = afpacket.New(afpacket.Options{Interfaces: o.Interfaces, MAC: o.MAC, Owner: o.Owner, Logger: o.Logger,
		Earlier: xdp.KeptInterfaces(o.Pins, o.Interfaces), Tap: tap, Withhold: o.Standby})
	if err != nil {
		p.unhook()
		return err
	}
	if err := p.open(way, private, begin); err != nil {
		p.unhook()
		return errors.Join(err, p.slow.Close())
	}
	return nil
}

func (p *Opened) open(way string, private []int, begin func(Plane) error) error {
	o := &p.options
	if err := o.guard(p.slow.Links(), private); err != nil {
		return err
	}
	if way == AFPacket {
		return p.takeSlow(cmp.Or(p.Slower, errors.New("AF_PACKET keeps nothing")), begin)
	}
	if o.Forget {
		// What can be told to fail fails before anything is thrown away.
		if err := xdp.Check(hostlink.Names(p.slow.Links())); err != nil {
			return err
		}
		if err := p.clear(errors.New("nothing is to be kept")); err != nil {
			return err
		}
		o.Pins = ""
	}
	p.Pins = o.Pins
	p.slow.KeepClaims(o.Pins != "")
	err := p.accelerate(begin)
	if err == nil {
		p.Slower = nil
	}
	return err
}

// takeSlow takes packets by AF_PACKET, unless an earlier process left something that would
// go on forwarding beside it.
func (p *Opened) takeSlow(why error, begin func(Plane) error) error {
	if err := p.options.refuse(why); err != nil {
		return err
	}
	p.Pins = ""
	p.slow.KeepClaims(false)
	p.Plane = p.slow
	if p.Slower != nil {
		p.options.Logger.Warn("packets are taken by AF_PACKET, which is slower than XDP", "because", p.Slower)
	}
	if err := begin(p.slow); err != nil {
		return err
	}
	return p.clear(why)
}

// accelerate opens XDP in front.
func (p *Opened) accelerate(begin func(Plane) error) error {
	o := p.options
	for fresh := o.Fresh; ; fresh = true {
		xo := xdp.Options{Interfaces: o.Interfaces, MAC: o.MAC, Slow: p.slow, Pins: o.Pins, Fresh: fresh,
			Words: o.Words, Sockets: o.Sockets, Ring: o.Ring, BusyPoll: o.BusyPoll, Logger: o.Logger,
			Native: o.Plane == XDP, Everywhere: o.Plane == TCX}
		if p.ingress != nil {
			xo.Ingress = p.ingress
		}
		fast, err := xdp.New(xo)
		if err != nil {
			return err
		}
		if err = begin(fast); err == nil {
			p.Plane, p.fast = fast, fast
			return nil
		}
		// Before the plane is closed, which gives the folder to others.
		refused := o.refuse(err)
		if discarded := p.discard(fast); discarded != nil || !errors.Is(err, accel.ErrKept) || fresh {
			return errors.Join(err, discarded)
		}
		if refused != nil {
			return refused
		}
		p.Lost = err
	}
}

// Close gives back a plane that never ran, and takes away what it has put in place, unless
// an earlier process had. What was made of the plane must have been closed.
func (p *Opened) Close() error {
	defer p.unhook()
	if p.fast == nil {
		return p.slow.Close()
	}
	return errors.Join(p.discard(p.fast), p.slow.Close())
}

// discard closes a plane that never ran. Where it has replaced what an earlier process
// left, that one's claims go too.
func (p *Opened) discard(fast *xdp.Plane) error {
	if !fast.Discard() {
		return nil
	}
	_, err := afpacket.Withdraw("", p.options.Interfaces...)
	return err
}
