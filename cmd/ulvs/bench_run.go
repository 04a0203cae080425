package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ulvs/ulvs/bench/wire"
)

// meter is an interface with a sink, and what both have counted.
type meter struct {
	at     wire.End
	sink   *wire.Sink
	native bool
	rx, tx uint64 // the interface's own counters when it began
	report report
}

// newMeter puts a sink on an interface: in the driver, or in front of the stack
// where the driver has no XDP.
func (o *counting) newMeter(service netip.AddrPort) (*meter, error) {
	at, err := wire.Interface(o.interfaceName)
	if err != nil {
		return nil, err
	}
	m := &meter{at: at, native: true}
	options := wire.Only(service, o.udp)
	if m.sink, err = wire.NewSink(at, options); err != nil && !errors.Is(err, wire.ErrNotPermitted) {
		options.Generic, m.native = true, false
		m.sink, err = wire.NewSink(at, options)
	}
	if err != nil {
		return nil, err
	}
	m.report = report{Interface: at.Name, VIP: o.vip, XDP: "native", seconds: o.seconds}
	if !m.native {
		m.report.XDP = "generic"
	}
	return m, nil
}

// begin reads what was there before the load.
func (m *meter) begin() (err error) {
	m.rx, m.tx, err = m.at.Statistics()
	return err
}

// watch takes a sample a second, until ctx ends, and the last one then. ended returns
// when no more is sent after that.
func (m *meter) watch(ctx context.Context, sent func() uint64, ended func(), each func(sample)) {
	began, first := time.Now(), m.sink.Count(0)
	cpus := make([]uint64, m.sink.CPUs())
	for cpu := range cpus {
		cpus[cpu] = m.sink.CountOn(cpu, 0)
	}
	var was sample
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for second := 1; ; second++ {
		done := false
		select {
		case <-ctx.Done():
			done = true
		case <-every.C:
		}
		is := sample{Second: second, Sent: sent(), Returned: m.sink.Count(0) - first}
		if !done || time.Since(began) > time.Duration(second-1)*time.Second+100*time.Millisecond {
			step := sample{second, is.Sent - was.Sent, is.Returned - was.Returned}
			m.report.Seconds = append(m.report.Seconds, step)
			each(step)
		}
		was = is
		if done {
			break
		}
	}
	took := time.Since(began).Seconds()
	ended()
	// What is on its way still counts.
	for end := time.Now().Add(time.Second); time.Now().Before(end) && sent() > m.sink.Count(0)-first; {
		time.Sleep(5 * time.Millisecond)
	}
	m.report.total(took, sent(), m.sink.Count(0)-first)
	m.report.ByCPU = map[int]uint64{}
	for cpu, before := range cpus {
		if n := m.sink.CountOn(cpu, 0) - before; n > 0 {
			m.report.ByCPU[cpu] = n
		}
	}
	// A card's counters may be some time behind; they say whether frames left at all.
	if rx, tx, err := m.at.Statistics(); err == nil {
		m.report.InterfaceRx, m.report.InterfaceTx = rx-m.rx, tx-m.tx
	}
}

func (o *counting) run(ctx context.Context, out io.Writer) error {
	service, err := o.check()
	if err != nil {
		return err
	}
	m, err := o.newMeter(service)
	if err != nil {
		return err
	}
	defer m.sink.Close()
	if err := m.begin(); err != nil {
		return err
	}
	printer := printer{out: out, json: o.json, counts: true}
	printer.begin(&m.report)
	timed, end := context.WithTimeout(ctx, time.Duration(o.seconds)*time.Second)
	defer end()
	m.watch(timed, func() uint64 { return 0 }, func() {}, printer.second)
	m.report.Interrupted = ctx.Err() != nil
	return printer.end(&m.report)
}

func (g *generation) run(ctx context.Context, out io.Writer) error {
	list, err := g.traffic()
	if err != nil {
		return err
	}
	m, err := g.newMeter(list[0].Service)
	if err != nil {
		return err
	}
	defer m.sink.Close()
	for i := range list {
		list[i].Src = [6]byte(m.at.MAC)
		m.report.CPUs = append(m.report.CPUs, list[i].CPU)
	}
	m.report.Flows, m.report.New, m.report.Size = g.flows, g.fresh, g.size
	if g.fresh {
		m.report.Flows = 0
	}
	printer := printer{out: out, json: g.json}
	printer.begin(&m.report)
	if !g.fresh {
		if m.report.Opened, err = m.open(ctx, list, g.openRate); err != nil {
			return err
		}
		printer.opened(&m.report)
	}
	if err := m.begin(); err != nil {
		return err
	}
	team, err := newTeam(m.at, list)
	if err != nil {
		return err
	}
	defer team.close()
	timed, end := context.WithTimeout(ctx, time.Duration(g.seconds)*time.Second)
	defer end()
	var failed error
	var running sync.WaitGroup
	running.Go(func() {
		failed = team.run(timed, func(wire.Traffic) uint64 { return 1 << 62 })
		end()
	})
	m.watch(timed, team.sent, running.Wait, printer.second)
	m.report.Interrupted = ctx.Err() != nil
	if failed != nil {
		return failed
	}
	return printer.end(&m.report)
}

// openTries is how often all connections are opened, where some are missing.
const openTries = 3

// open has every connection opened at a rate, and returns how many of their last
// packets came back.
func (m *meter) open(ctx context.Context, list []wire.Traffic, rate uint64) (opened uint64, err error) {
	var all uint64
	for range openTries {
		steps := []bool{true, false} // SYN, ACK
		if list[0].UDP {
			steps = []bool{false}
		}
		for _, syn := range steps {
			each := make([]wire.Traffic, len(list))
			all = 0
			for i, t := range list {
				t.SYN, t.Random, t.Rate, t.Call = syn, false, max(1, rate/uint64(len(list))), 0
				each[i] = t
				all += uint64(t.Flows)
			}
			if opened, err = m.pass(ctx, each, all); err != nil || ctx.Err() != nil {
				return opened, err
			}
		}
		if opened >= all {
			break
		}
	}
	return opened, nil
}

// pass sends one packet of each flow, and counts what comes back.
func (m *meter) pass(ctx context.Context, list []wire.Traffic, all uint64) (back uint64, err error) {
	team, err := newTeam(m.at, list)
	if err != nil {
		return 0, err
	}
	defer team.close()
	before := m.sink.Count(0)
	if err := team.run(ctx, func(t wire.Traffic) uint64 { return uint64(t.Flows) }); err != nil {
		return 0, err
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end) && m.sink.Count(0)-before < all; {
		time.Sleep(5 * time.Millisecond)
	}
	return m.sink.Count(0) - before, nil
}

// team is a generator on each CPU.
type team struct {
	list    []*wire.Generator
	traffic []wire.Traffic
}

func newTeam(at wire.End, list []wire.Traffic) (*team, error) {
	t := &team{traffic: list}
	for _, traffic := range list {
		g, err := wire.NewGenerator(at, traffic)
		if err != nil {
			t.close()
			return nil, err
		}
		t.list = append(t.list, g)
	}
	return t, nil
}

// run sends n packets of each traffic, or until ctx ends.
func (t *team) run(ctx context.Context, n func(wire.Traffic) uint64) error {
	defer context.AfterFunc(ctx, func() {
		for _, g := range t.list {
			g.Stop()
		}
	})()
	var all errgroup.Group
	for i, g := range t.list {
		all.Go(func() error {
			_, err := g.Run(n(t.traffic[i]))
			if errors.Is(err, wire.ErrStopped) {
				return nil
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return fmt.Errorf("cannot generate frames: %w", err)
	}
	return nil
}

func (t *team) sent() (n uint64) {
	for _, g := range t.list {
		n += g.Sent()
	}
	return n
}

func (t *team) close() {
	for _, g := range t.list {
		g.Close()
	}
}
