package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/hostmark"
)

// rehearse gives the files to a director that nobody sees, so that what is wrong with them
// is known before what an earlier daemon left is changed. Where there is nothing, a start
// that fails takes back what it has done, and the time is saved. What is gone on with
// counts more than the files do, and then they need not be right.
func (d *daemon) rehearse(ctx context.Context) error {
	if d.follow {
		if _, err := hostmark.Read(); err != nil {
			return fmt.Errorf("--follow-marks: %w", err)
		}
	}
	if len(d.files) == 0 || d.adopts() || !d.takeover && !d.leftovers() {
		return nil
	}
	lvs, err := director.New(director.Options{Plane: nowhere{}, Connections: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer lvs.Close()
	return d.load(ctx, lvs)
}

// leftovers reports whether an earlier daemon has left anything that is replaced.
func (d *daemon) leftovers() bool {
	if d.pins != "" {
		if there, _ := xdp.ReadKept(d.pins); there != nil {
			return true
		}
	}
	return slices.ContainsFunc(d.interfaces, afpacket.Leftover)
}

// adopts reports whether there is something that is gone on with, or the start refused.
func (d *daemon) adopts() bool {
	if d.pins == "" || d.fresh {
		return false
	}
	there, _ := xdp.ReadKept(d.pins)
	return there != nil && !there.Empty()
}

// nowhere is a plane and a resolver without a network.
type nowhere struct{}

var (
	_ dataplane.Plane    = nowhere{}
	_ dataplane.Resolver = nowhere{}
)

func (nowhere) Name() string                                 { return "nowhere" }
func (nowhere) Run(context.Context, dataplane.Handler) error { return nil }
func (nowhere) Send(*dataplane.Frame)                        {}
func (nowhere) Claim(dataplane.Claims) error                 { return nil }
func (nowhere) Withholds() bool                              { return true }
func (nowhere) Injects() bool                                { return false }
func (nowhere) Counters() map[string]uint64                  { return nil }
func (nowhere) Resolver() dataplane.Resolver                 { return nowhere{} }
func (nowhere) NextHop(a netip.Addr) *dataplane.NextHop      { return dataplane.NewNextHop(a, nil) }
func (nowhere) Release(*dataplane.NextHop)                   {}
func (nowhere) Local(netip.Addr) bool                        { return false }
func (nowhere) Locals() *dataplane.Locals                    { return new(dataplane.Locals) }
func (nowhere) Source(int, netip.Addr) (none netip.Addr)     { return none }
func (nowhere) LinkAddr(int) (mac dataplane.MAC, ok bool)    { return mac, false }
func (nowhere) LinkName(int) string                          { return "" }
func (nowhere) Broadcast(netip.Addr) bool                    { return false }
