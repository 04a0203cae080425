package kernel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
)

// contender is something that forwards.
type contender struct {
	name string
	// kinds are the beginnings of the names of the loads that it takes part in.
	kinds []string
	// opens: it has connections, which their first packets are to open.
	opens bool
	// sink is where its frames go under a load.
	sink func(load) sinkKind
	// start has it forward between the two ends of a site.
	start func(*site, load)
}

const established, fresh = "established/", "new/"

// contenders are all, and the two whose work is subtracted from the others'.
var contenders = []contender{
	{"generator", []string{established, fresh}, false, always(noSink), func(*site, load) {}},
	{"wire", []string{established, fresh}, false, always(wireSink), func(*site, load) {}},
	{"bare", []string{established}, false, always(bareSink), func(s *site, _ load) { s.attach(actionTX) }},
	{"hash", []string{established}, false, always(xdpSink), startHash},
	{"forward", []string{established}, false, always(xdpSink), startForward},
	{"ipvs-4k", []string{established, fresh}, true, always(xdpSink), startIPVS},
	{"ipvs-1M", []string{established, fresh}, true, always(xdpSink), startIPVS},
	{"ulvs-xdp", []string{established, fresh}, true, always(xdpSink), func(s *site, l load) { startUlvs(s, l, true) }},
	{"ulvs-afpacket", []string{established, fresh}, true, always(plainSink), func(s *site, l load) {
		s.attach(actionPass)
		startUlvs(s, l, false)
	}},
}

func always(k sinkKind) func(load) sinkKind { return func(load) sinkKind { return k } }

func contenderOf(name string) (c contender, ok bool) {
	i := slices.IndexFunc(contenders, func(c contender) bool { return c.name == name })
	if i < 0 {
		return c, false
	}
	return contenders[i], true
}

// takes reports whether the contender takes part in a load.
func (c contender) takes(l load) bool {
	return slices.ContainsFunc(c.kinds, func(kind string) bool { return strings.HasPrefix(l.name, kind) })
}

// startForward has a route to the virtual address by way of a real server.
func startForward(s *site, _ load) {
	s.attach(actionPass)
	to := netlink.Route{LinkIndex: s.director.Index, Dst: &net.IPNet{IP: virtual.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}, Gw: servers[0].AsSlice()}
	s.must(s.director.Space.Netlink().RouteAdd(&to))
}

// startIPVS has the kernel's own IPVS forward.
func startIPVS(s *site, l load) {
	s.attach(actionPass)
	s.own()
	s.must(s.director.Space.Do(func() error {
		h, err := ipvs.New("")
		if err != nil {
			return err
		}
		defer h.Close()
		const persistent = 1 // IP_VS_SVC_F_PERSISTENT
		service := &ipvs.Service{
			AddressFamily: unix.AF_INET, Protocol: unix.IPPROTO_TCP, Address: virtual.Addr().AsSlice(), Port: virtual.Port(),
			SchedName: "rr", Netmask: 0xffffffff,
		}
		if l.persistence > 0 {
			service.Flags, service.Timeout = persistent, l.persistence
		}
		if err := h.NewService(service); err != nil {
			return err
		}
		for _, a := range servers {
			d := &ipvs.Destination{AddressFamily: unix.AF_INET, Address: a.AsSlice(), Port: virtual.Port(), Weight: 1, ConnectionFlags: ipvs.ConnectionFlagDirectRoute}
			if err := h.NewDestination(service, d); err != nil {
				return err
			}
		}
		return nil
	}))
}

// startUlvs has a director forward, in this process. It is what "ulvs run" makes,
// with its defaults, but keeps nothing for another.
func startUlvs(s *site, l load, accelerated bool) {
	s.own()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var lvs *director.Director
	var fast *xdp.Plane
	s.must(s.director.Space.Do(func() (err error) {
		interfaces := []string{s.director.Name}
		slow, err := afpacket.New(afpacket.Options{Interfaces: interfaces, Logger: log})
		if err != nil {
			return err
		}
		var plane dataplane.Plane = slow
		if accelerated {
			if fast, err = xdp.New(xdp.Options{Interfaces: interfaces, Native: true, Slow: slow}); err != nil {
				return err
			}
			plane = fast
		}
		if lvs, err = director.New(director.Options{Plane: plane, Logger: log}); err != nil {
			return err
		}
		service := ulvs.Service{Scheduler: "rr"}
		service.Protocol, service.Addr, service.Port = ulvs.TCP, virtual.Addr(), virtual.Port()
		service.Persistence.Timeout = time.Duration(l.persistence) * time.Second
		err = lvs.AddService(service)
		for _, a := range servers {
			err = errors.Join(err, lvs.AddDestination(service.ServiceKey, ulvs.Destination{Addr: a, Port: virtual.Port(), Weight: 1}))
		}
		return err
	}))
	if fast != nil && !strings.HasPrefix(fast.Mode(), s.director.Name+" native, AF_XDP ") {
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
