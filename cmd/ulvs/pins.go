package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/internal/control"
	"github.com/ulvs/ulvs/internal/hostlink"
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

// ownerOf returns what tells the daemon with a control socket from others.
func ownerOf(socket string) string {
	if abs, err := filepath.Abs(socket); err == nil {
		return abs
	}
	return socket
}

// findPins sets pins to where state is kept. Where it cannot be, though nobody
// asked for it, it is not.
func (d *daemon) findPins() error {
	dir := d.pin
	if d.pin == noPins {
		dir, d.forget = defaultPins, true
	}
	d.pins = pinsOf(dir, d.control)
	err := xdp.CheckPins(d.pins)
	if err == nil {
		return nil
	}
	switch {
	case d.forget || d.plane == "afpacket": // what there may be is not to be seen
		d.pins = ""
	case d.pin == defaultPins:
		d.pins, d.unpinned = "", hiddenMount(err)
	default:
		return err
	}
	return nil
}

// hiddenMount adds to the error of a missing file system that it may be mounted where the
// first process or our parent is, and not here.
func hiddenMount(err error) error {
	own, failed := os.Readlink("/proc/self/ns/mnt")
	if failed != nil || !errors.Is(err, xdp.ErrNoBPFFS) {
		return err
	}
	for _, other := range []int{1, os.Getppid()} {
		if ns, failed := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", other)); failed == nil && ns != own {
			return fmt.Errorf("%w; where \"ip netns exec\" hides it: nsenter --net=/run/netns/NAME ulvs run does not", err)
		}
	}
	return err
}

// inheritable says why what the daemon keeps that is to be replaced could not be gone
// on with. If none runs, there is nothing to be spared.
func (d *daemon) inheritable(mac dataplane.MAC) error {
	kept := xdp.KeptInterfaces(d.pins, d.interfaces)
	links, err := hostlink.Resolve(d.interfaces, kept)
	if err != nil {
		return err
	}
	for _, f := range d.files {
		if f.err != nil {
			return f.err
		}
	}
	switch _, _, err := control.Dial(d.control).Version(); {
	case d.pins == "" || errors.Is(err, ulvs.ErrUnreachable):
		return nil
	case errors.Is(err, ulvs.ErrNoAnswer):
		return fmt.Errorf("--takeover: %w", err)
	}
	if err := d.known(links, kept); err != nil {
		return err
	}
	if err := auto.Check(d.autoOptions(mac), d.directorOptions(mac).Sizes()); err != nil {
		return fmt.Errorf("--takeover: %w; the daemon at %s goes on", d.explain(err), d.control)
	}
	return nil
}

// known refuses an interface that is not there, and that the daemon which is to be replaced
// knows nothing of: it was mistyped. It also refuses to end a daemon for one that has none.
func (d *daemon) known(links []hostlink.Link, kept map[string]int) error {
	facts, _ := control.Dial(d.control).Facts()
	for _, l := range links {
		_, had := kept[l.Given]
		if !l.There() && !had && !slices.ContainsFunc(facts, func(f ulvs.Fact) bool { return f.Name == l.Given }) {
			return fmt.Errorf("--takeover: there is no interface %s, and the daemon at %s has none of that name, and goes on (ip link lists them)",
				l.Given, d.control)
		}
	}
	if !slices.ContainsFunc(links, hostlink.Link.There) {
		return fmt.Errorf("--takeover: no interface of %s is there, and the daemon at %s goes on (ip link lists them)",
			strings.Join(d.interfaces, ","), d.control)
	}
	return nil
}

// explain adds to a refusal to throw away what an earlier daemon left what to do.
func (d *daemon) explain(err error) error {
	var kept *auto.KeptError
	if !errors.As(err, &kept) {
		return err
	}
	again := "the same options again"
	if kept.Kept.Words != "" {
		again += " (" + kept.Kept.Words + ")"
	}
	to := "to go on with that"
	if errors.Is(kept.Why, xdp.ErrOtherVersion) {
		to = "to the version that left it " + to
	}
	return fmt.Errorf("%w; nothing was changed: give %s %s, or --fresh to throw it away, and --rules FILE for services", err, again, to)
}

// reserve takes the name of the control socket; with --takeover, from the daemon
// that has it, and with the socket itself, at which commands wait from then on.
func (d *daemon) reserve(ctx context.Context) (*control.Reservation, *control.Server, error) {
	if !d.takeover {
		name, err := control.Reserve(d.control)
		return name, nil, err
	}
	if d.unpinned != nil {
		return nil, nil, fmt.Errorf("--takeover goes on with what the daemon before keeps, which cannot be seen: %w",
			d.unpinned)
	}
	if d.pins == "" || d.forget || d.plane == auto.AFPacket {
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
	given  atomic.Bool   // to another daemon
}

// Handover implements control.Handoverer.
func (t *handover) Handover() error {
	if !t.pinned {
		return fmt.Errorf("%w: it keeps nothing for another one", ulvs.ErrUnsupported)
	}
	t.log.Info("another daemon takes over; this one ends")
	t.given.Store(true)
	t.end()
	<-t.ended
	return nil
}

// announce says what the daemon got.
func (s *started) announce() {
	words := []any{"plane", s.opened.Plane.Name(), "interfaces", strings.Join(s.interfaces, ","), "control", s.control, "connections", s.connections}
	if s.unpinned != nil {
		s.log.Warn("nothing outlives this daemon: its services and connections end with it", "because", s.unpinned)
	}
	if s.opened.Lost != nil {
		s.warnLost(s.opened.Lost.Error())
	}
	if x, ok := s.opened.Plane.(*xdp.Plane); ok {
		words[1] = x.Name() + ": " + x.Mode()
		for _, unfit := range x.Unfit() {
			s.log.Warn("XDP was asked for where packets may be lost by it", "interface", unfit.Interface, "because", unfit.Why)
		}
		dir, discarded := x.Kept()
		if s.opened.Lost != nil {
			discarded = s.opened.Lost.Error()
		}
		if dir == "" {
			dir = noPins
		}
		words = append(words, "pinned", dir)
		switch {
		case s.lvs.Adopted():
			counters, _ := s.lvs.Counters() // cannot fail
			words = append(words, "adopted connections", counters["connections"], "templates", counters["templates"])
		case discarded != "":
			words = append(words, "discarded", discarded)
			if !s.fresh && s.opened.Lost == nil {
				s.warnLost(discarded)
			}
		}
	}
	s.log.Info("ready", words...)
}

func (s *started) warnLost(why string) {
	s.log.Warn("what an earlier daemon left is lost: it had no services; its marks and sysctls are to be said again", "because", why)
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
			found, err := auto.Detach(pinsOf(dir, socket), ownerOf(socket), interfaces...)
			if err == nil && !found {
				fmt.Println("nothing was left")
			}
			return err
		},
	}
	controlFlag(c, &socket)
	c.Flags().StringSliceVar(&interfaces, "interface", nil, "also remove the rules on `IF`s, whichever daemon left them")
	c.Flags().StringVar(&dir, "pin", defaultPins, "where the daemon kept them: its --pin `DIR`")
	return c
}
