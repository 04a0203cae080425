// Package auto opens the plane that fits, as "ulvs run --plane auto" does: XDP, with what
// outlives the process, where that is permitted and works, and AF_PACKET otherwise. Who
// embeds a plane by name needs it not, and links neither eBPF nor nftables then.
package auto

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/internal/accel"
)

// The names of planes, for Options.
const (
	Auto     = "auto"
	XDP      = "xdp"
	AFPacket = "afpacket"
)

// Options say which plane is opened, and on what. Only Interfaces is required.
type Options struct {
	// Interfaces are the names of the Ethernet interfaces whose packets are balanced.
	Interfaces []string
	// Plane is Auto, XDP or AFPacket; "" is Auto.
	Plane string
	// MAC is one more unicast address that is accepted on all of them (VRRP's); the zero
	// value means none.
	MAC dataplane.MAC
	// Pins is a folder in a BPF file system, made if it is not there, in which connections,
	// services and programs are kept for the next process; "" keeps nothing. Fresh begins
	// without what is there.
	Pins  string
	Fresh bool
	// Sockets, Ring and BusyPoll are xdp.Options'.
	Sockets  xdp.SocketUse
	Ring     int
	BusyPoll time.Duration
	// Logger is told what an operator should know; nil means slog.Default().
	Logger *slog.Logger
}

// Opened is a plane that Open has opened.
type Opened struct {
	// Plane is open, and brings its Resolver (dataplane.Resolving).
	Plane dataplane.Plane
	// Pins are Options.Pins, or "" where nothing is kept.
	Pins string
	// Lost is why what an earlier process left could not be gone on with; nil where
	// nothing was lost.
	Lost error

	options Options
	slow    *afpacket.Plane
	fast    *xdp.Plane // or nil
}

// Plane is what Open opens.
type Plane = dataplane.Plane

// Open opens a plane, and has begin make of it what its packets go to, which tries it
// (director.New). Where that fails and another plane may be taken, it is called again with
// that one. The error is begin's last, or says what could not be opened; everything is
// given back then.
func Open(o Options, begin func(Plane) error) (*Opened, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Plane == "" {
		o.Plane = Auto
	}
	if o.Plane != Auto && o.Plane != XDP && o.Plane != AFPacket {
		return nil, fmt.Errorf("plane %s: there are %s, %s and %s", o.Plane, Auto, AFPacket, XDP)
	}
	slow, err := afpacket.New(afpacket.Options{Interfaces: o.Interfaces, MAC: o.MAC, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	slow.KeepClaims(o.Pins != "")
	p := &Opened{Pins: o.Pins, options: o, slow: slow}
	if o.Plane != AFPacket {
		err := p.accelerate(begin)
		if err == nil {
			return p, nil
		}
		if o.Plane == XDP || errors.Is(err, xdp.ErrTaken) {
			return nil, errors.Join(err, p.Lost, slow.Close())
		}
		o.Logger.Info("packets are taken by AF_PACKET, not XDP", "because", err)
		// Nothing is kept, and what an earlier process left must not go on forwarding
		// beside this one.
		if o.Pins != "" {
			if err := Detach(o.Pins, o.Interfaces...); err != nil {
				return nil, errors.Join(err, p.Lost, slow.Close())
			}
			p.Pins = ""
			slow.KeepClaims(false)
		}
	}
	p.Plane = slow
	if err := begin(slow); err != nil {
		return nil, errors.Join(err, p.Lost, slow.Close())
	}
	return p, nil
}

// accelerate opens XDP in front. What an earlier process left and cannot be used is thrown
// away.
func (p *Opened) accelerate(begin func(Plane) error) error {
	o := p.options
	for fresh := o.Fresh; ; fresh = true {
		fast, err := xdp.New(xdp.Options{Interfaces: o.Interfaces, MAC: o.MAC, Slow: p.slow, Pins: o.Pins, Fresh: fresh,
			Sockets: o.Sockets, Ring: o.Ring, BusyPoll: o.BusyPoll})
		if err != nil {
			return err
		}
		if err = begin(fast); err == nil {
			p.Plane, p.fast = fast, fast
			return nil
		}
		if errors.Is(err, xdp.ErrTaken) { // and so are the claims on its interfaces
			return errors.Join(err, p.discard(fast))
		}
		if !errors.Is(err, accel.ErrKept) || fresh {
			return errors.Join(err, p.discard(fast, o.Interfaces...))
		}
		p.Lost = errors.Join(err, fast.Close())
	}
}

// Close gives back a plane that never ran, and takes away what it has put in place, unless
// an earlier process had. What was made of the plane must have been closed.
func (p *Opened) Close() error {
	if p.fast == nil {
		return p.slow.Close()
	}
	return errors.Join(p.slow.Close(), p.discard(p.fast, p.options.Interfaces...))
}

// discard closes a plane that never ran, and takes away what it has put in place, and the
// claims on interfaces, unless that was there before.
func (p *Opened) discard(fast *xdp.Plane, interfaces ...string) error {
	err := fast.Close()
	if p.options.Pins == "" || fast.Adopted() {
		return err
	}
	return errors.Join(err, Detach(p.options.Pins, interfaces...))
}

// Detach removes what is pinned in a folder, programs included, and the claims on its
// interfaces and on others. A folder that is not there has nothing to be removed.
func Detach(pins string, interfaces ...string) error {
	if _, err := os.Stat(pins); err != nil {
		return nil
	}
	names, err := xdp.Detach(pins)
	for _, name := range append(names, interfaces...) {
		err = errors.Join(err, afpacket.Withdraw(name))
	}
	return err
}
