package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/tcx"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
)

// mode is where ulvs takes frames.
type mode int

const (
	native  mode = iota // XDP in the driver, and AF_XDP
	ingress             // TCX, or clsact, and AF_PACKET behind the private interface
	packets             // AF_PACKET alone
)

// modeWords are how a plane says that it is in a mode.
var modeWords = map[mode]string{native: "native, AF_XDP ", ingress: "tcx "}

// startUlvs has a director forward, in this process. It is what "ulvs run" makes,
// with its defaults, but keeps nothing for another.
func startUlvs(s *site, m mode) {
	if m != native {
		s.attach(actionPass)
	}
	s.own()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var lvs *director.Director
	var fast *xdp.Plane
	s.must(s.director.Space.Do(func() (err error) {
		interfaces := []string{s.director.Name}
		var hook *tcx.Hook
		var tap func(ifindex int) (int, error)
		if m == ingress {
			if hook, err = tcx.New(xdp.HostMark); err != nil {
				return err
			}
			tap = hook.Private
		}
		slow, err := afpacket.New(afpacket.Options{Interfaces: interfaces, Tap: tap, Logger: log})
		if err != nil {
			return err
		}
		var plane dataplane.Plane = slow
		if m != packets {
			o := xdp.Options{Interfaces: interfaces, Native: m == native, Slow: slow, Logger: log}
			if hook != nil {
				o.Ingress, o.Everywhere = hook, true
			}
			if fast, err = xdp.New(o); err != nil {
				return err
			}
			plane = fast
		}
		if lvs, err = director.New(director.Options{Plane: plane, Logger: log}); err != nil {
			return err
		}
		return s.configure(lvs)
	}))
	if fast != nil && !strings.HasPrefix(fast.Mode(), s.director.Name+" "+modeWords[m]) {
		s.Fatalf("the program or its sockets are not where they are to be compared: %s", fast.Mode())
	}
	ctx, end := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return lvs.Run(ctx) })
	s.Cleanup(func() {
		end()
		s.must(g.Wait())
		if s.Failed() {
			counters, _ := lvs.Counters()
			facts, _ := lvs.Facts()
			s.Log(counters, facts)
		}
		lvs.Close()
	})
}

// configure gives a director the load's service.
func (l load) configure(lvs *director.Director) error {
	service := ulvs.Service{Scheduler: l.schedulerName(), OnePacket: l.onePacket}
	service.Persistence.Timeout = time.Duration(l.persistence) * time.Second
	to := uint16(0)
	if l.rules > 0 {
		service.Mark = mark
		if err := lvs.MarkRestore(false, l.iptables()); err != nil {
			return err
		}
	} else {
		to = l.virtual().Port()
		service.Protocol, service.Addr, service.Port = ulvs.Protocol(l.protocol()), l.virtual().Addr(), to
	}
	err := lvs.AddService(service)
	upper, lower := l.thresholds()
	for _, a := range l.reals() {
		err = errors.Join(err, lvs.AddDestination(service.ServiceKey, ulvs.Destination{
			Addr: a, Port: to, Weight: l.weight(), UpperThreshold: upper, LowerThreshold: lower,
		}))
	}
	return err
}

// iptables are the rules that site.mark gives the kernel, as iptables-restore reads them.
func (l load) iptables() string {
	var b strings.Builder
	b.WriteString("*mangle\n")
	for _, r := range l.markRules() {
		fmt.Fprintf(&b, "-A PREROUTING -s %v -d %v -p tcp --dport %d -j MARK --set-mark %d\n",
			r.from, l.virtual().Addr(), r.port, mark)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
