package main

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/control"
)

// started is a daemon that has everything but packets.
type started struct {
	*daemon
	opened   *auto.Opened
	lvs      *director.Director
	operated *warned
	follower func(context.Context) error // or nil
	server   *control.Server
}

func (d *daemon) autoOptions(mac dataplane.MAC) auto.Options {
	return auto.Options{
		Interfaces: d.interfaces, Plane: d.plane, Standby: len(d.while) > 0,
		MAC: mac, Pins: d.pins, Fresh: d.fresh, Forget: d.forget,
		Owner: ownerOf(d.control), Words: startWords(os.Args), Sockets: socketUses[d.sockets], Ring: d.ring,
		BusyPoll: d.busyPoll, Logger: d.log,
	}
}

func (d *daemon) directorOptions(mac dataplane.MAC) director.Options {
	return director.Options{Connections: d.connections, Templates: d.templates, MAC: mac, RSTs: rstLimit(d.rsts),
		While: d.whileAddress(), Logger: d.log}
}

// start does all that may fail, and takes it back if it does. server is that of the daemon
// before, or nil.
func (d *daemon) start(ctx context.Context, mac dataplane.MAC, name *control.Reservation,
	server *control.Server) (_ *started, err error) {
	s := &started{daemon: d, server: server}
	defer func() {
		if err != nil && s.server != nil {
			s.server.Close()
		}
	}()
	s.opened, err = auto.Open(d.autoOptions(mac), func(p dataplane.Plane) (err error) {
		o := d.directorOptions(mac)
		o.Plane = p
		s.lvs, err = director.New(o)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.lvs.Close()
			err = errors.Join(err, s.opened.Close())
		}
	}()
	// Commands wait from here on. What may still fail was tried before (rehearse).
	if s.server == nil {
		socket, err := name.Listen()
		if err != nil {
			return nil, err
		}
		s.server = control.NewServer(socket, d.log)
	}
	d.pins = s.opened.Pins
	s.operated = &warned{Director: s.lvs, log: d.log, follow: d.follow, facts: d.facts(s.opened)}
	if err := d.setUp(ctx, s.lvs, s.operated); err != nil {
		return nil, err
	}
	if d.follow {
		if s.follower, err = d.followMarks(s.lvs, s.opened.Interfaces); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// schedule has Go run more goroutines at once than there are CPUs. Each that waits for frames in
// poll(2) holds its place until the runtime misses that, which takes it up to ten milliseconds
// (runtime/proc.go, retake): for so long nobody would hear of a neighbour, an address or a command.
func (s *started) schedule() {
	if os.Getenv("GOMAXPROCS") != "" {
		return // somebody knows better
	}
	waiting := len(s.interfaces) // AF_PACKET has one for each, and AF_XDP one for each queue
	if x, ok := s.opened.Plane.(*xdp.Plane); ok {
		waiting += x.Queues()
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + waiting)
}

// serve carries packets and answers commands until ctx ends.
func (s *started) serve(ctx context.Context) error {
	defer s.lvs.Close()
	defer s.server.Close()
	s.schedule()
	ctx, end := context.WithCancel(ctx)
	defer end()
	leaving := &handover{warned: s.operated, pinned: s.pins != "", end: end, ended: make(chan struct{})}
	g, ctx := errgroup.WithContext(ctx)
	if s.follower != nil {
		g.Go(func() error { return s.follower(ctx) })
	}
	// No command finds a director that has ended.
	carrying, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, func() {
		s.server.Refuse()
		halt()
	})()
	g.Go(func() error {
		defer close(leaving.ended)
		return s.lvs.Run(carrying)
	})
	if s.procfs != "" {
		g.Go(func() error {
			files := &procFiles{dir: s.procfs, from: leaving, log: s.log}
			files.keep(ctx)
			if !leaving.given.Load() {
				files.remove()
			}
			return nil
		})
	}
	s.server.Ready(leaving)
	g.Go(func() error { return s.server.Run(ctx) })
	s.announce()
	err := g.Wait()
	s.log.Info("ended")
	return err
}

// startWords are how the daemon was started, for whoever is to do it again.
func startWords(args []string) string {
	words := slices.DeleteFunc(slices.Clone(args[1:]), func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		return name == "--fresh" || name == "--takeover"
	})
	return strings.Join(append([]string{"ulvs"}, words...), " ")
}

// facts are what the operator should know of the plane besides its own.
func (d *daemon) facts(opened *auto.Opened) (facts []ulvs.Fact) {
	if opened.Slower != nil {
		facts = append(facts, ulvs.Fact{Name: "xdp", Value: "not used: " + opened.Slower.Error()})
	}
	if d.unpinned != nil {
		facts = append(facts, ulvs.Fact{Name: "pinned", Value: "nothing: " + d.unpinned.Error()})
	}
	return facts
}

// Facts implements ulvs.Control.
func (w *warned) Facts() ([]ulvs.Fact, error) {
	facts, err := w.Director.Facts()
	for _, f := range w.facts {
		facts = slices.DeleteFunc(facts, func(of ulvs.Fact) bool { return of.Name == f.Name })
	}
	return append(facts, w.facts...), err
}
