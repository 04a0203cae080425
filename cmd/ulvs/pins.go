package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/control"
)

// defaultPins is where state is kept if nothing else is said, and noPins what says
// that it is not.
const (
	defaultPins = "/sys/fs/bpf/ulvs"
	noPins      = "none"
)

func pinFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "pin", defaultPins, "keep connections, services and programs under `DIR`, in a BPF file system, for the next daemon; none keeps nothing")
}

// pinsOf returns the folder of the daemon with a control socket: each has its own.
func pinsOf(dir, socket string) string {
	name := "ulvs"
	if socket != control.DefaultSocket {
		if abs, err := filepath.Abs(socket); err == nil {
			socket = abs
		}
		// Names in a BPF file system have no dots.
		name = strings.NewReplacer("/", "_", ".", "_").Replace(strings.Trim(socket, "/"))
	}
	return filepath.Join(dir, name)
}

// findPins sets pins to where state is kept. Where it cannot be, though nobody
// asked for it, it is not.
func (d *daemon) findPins() error {
	dir := d.pin
	if dir == noPins {
		dir = defaultPins
	}
	d.pins = pinsOf(dir, d.control)
	if d.pin == noPins || d.plane == "afpacket" {
		if _, err := os.Stat(d.pins); err == nil {
			return fmt.Errorf("%s has an earlier daemon's programs, which would go on forwarding beside this one: remove them with \"ulvs detach\", or go on with them: --plane xdp, and without --pin %s", d.pins, noPins)
		}
		d.pins = ""
		return nil
	}
	err := xdp.CheckPins(d.pins)
	if err != nil && d.pin == defaultPins {
		d.pins, d.unpinned = "", err
		return nil
	}
	return err
}

// inheritable says why what the daemon keeps that is to be replaced could not be gone
// on with. If none runs, there is nothing to be spared.
func (d *daemon) inheritable() error {
	if d.pins == "" || d.fresh {
		return nil
	}
	_, _, err := control.Dial(d.control).Version()
	switch {
	case errors.Is(err, ulvs.ErrUnreachable):
		return nil
	case errors.Is(err, ulvs.ErrNoAnswer):
		return fmt.Errorf("--takeover: %w", err)
	}
	if err = xdp.CheckKept(d.pins); err != nil {
		return fmt.Errorf("--takeover would lose what is in %s, services and connections: %w; save its services (ulvs ipvsadm -Sn), marks and sysctls, and take over with --fresh and --rules", d.pins, err)
	}
	return nil
}

// reserve takes the name of the control socket; with --takeover, from the daemon
// that has it, and with the socket itself, at which commands wait from then on.
func (d *daemon) reserve(ctx context.Context) (*control.Reservation, *control.Server, error) {
	if !d.takeover {
		name, err := control.Reserve(d.control)
		return name, nil, err
	}
	if d.pins == "" {
		return nil, nil, errors.New("--takeover goes on with what the daemon before keeps: it needs --pin, and the XDP plane")
	}
	inherited, err := control.Dial(d.control).Handover(ctx)
	if err != nil && !errors.Is(err, ulvs.ErrUnreachable) {
		return nil, nil, fmt.Errorf("--takeover: the daemon at %s: %w", d.control, err)
	}
	const patience = 5 * time.Second
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		name, err := control.Reserve(d.control)
		switch {
		case err == nil && inherited == nil:
			return name, nil, nil
		case err == nil:
			socket, err := name.Inherit(inherited)
			if err != nil {
				return nil, nil, errors.Join(err, name.Close())
			}
			return name, control.NewServer(socket, d.log), nil
		case ctx.Err() != nil:
			err = errEnded
		case time.Since(began) < patience:
			continue
		}
		if inherited != nil {
			err = errors.Join(err, inherited.Close())
		}
		return nil, nil, err
	}
}

// handover is a director that can be told to leave everything to the next daemon.
type handover struct {
	*warned
	pinned bool
	end    func()
	ended  chan struct{} // closed when no more packets are carried
}

// Handover implements control.Handoverer.
func (t *handover) Handover() error {
	if !t.pinned {
		return fmt.Errorf("%w: it keeps nothing for another one", ulvs.ErrUnsupported)
	}
	t.log.Info("another daemon takes over")
	t.end()
	<-t.ended
	return nil
}

func (d *daemon) warnLost(why string) {
	d.log.Warn("what an earlier daemon left is lost: services, marks, sysctls and connections", "because", why)
}

// announce says what the daemon got.
func (d *daemon) announce(opened *auto.Opened, lvs *director.Director) {
	words := []any{"plane", opened.Plane.Name(), "interfaces", strings.Join(d.interfaces, ","), "control", d.control, "connections", d.connections}
	if x, ok := opened.Plane.(*xdp.Plane); ok {
		words[1] = "xdp: " + x.Mode()
		dir, discarded := x.Kept()
		if opened.Lost != nil {
			discarded = opened.Lost.Error()
		}
		if dir == "" {
			dir = noPins
		}
		if d.unpinned != nil {
			dir += " (" + d.unpinned.Error() + ")"
		}
		words = append(words, "pinned", dir)
		switch {
		case lvs.Adopted():
			counters, _ := lvs.Counters() // cannot fail
			words = append(words, "adopted connections", counters["connections"], "templates", counters["templates"])
		case discarded != "":
			words = append(words, "discarded", discarded)
			if !d.fresh && opened.Lost == nil {
				d.warnLost(discarded)
			}
		}
	}
	d.log.Info("ready", words...)
}

// detachCommand removes what a daemon left.
func detachCommand() *cobra.Command {
	var socket, dir string
	var interfaces []string
	c := &cobra.Command{
		Use:   "detach",
		Short: "Remove what a daemon that has ended left in place: programs, connections, services",
		Long: `Remove what a daemon that has ended left in place, so that it went on forwarding
and could be started again: its programs on the interfaces, its connections and
services, and the rules that keep the host from the services' packets.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, _, err := control.Dial(socket).Version()
			if errors.Is(err, ulvs.ErrNoAnswer) {
				return fmt.Errorf("a daemon has %s: end it first: %w", socket, err)
			}
			if !errors.Is(err, ulvs.ErrUnreachable) {
				return fmt.Errorf("a daemon runs at %s: end it first", socket)
			}
			at := pinsOf(dir, socket)
			_, missing := os.Stat(at)
			if missing != nil && len(interfaces) == 0 {
				return fmt.Errorf("nothing was left: %w (a daemon that kept nothing and was killed leaves rules: say --interface)", missing)
			}
			var failed error
			for _, name := range interfaces {
				failed = errors.Join(failed, afpacket.Withdraw(name))
			}
			return errors.Join(failed, auto.Detach(at))
		},
	}
	controlFlag(c, &socket)
	c.Flags().StringSliceVar(&interfaces, "interface", nil, "also remove the rules on `IF`s of which nothing is kept")
	c.Flags().StringVar(&dir, "pin", defaultPins, "where the daemon kept them: its --pin `DIR`")
	return c
}
