package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/auto"
)

// A start that is to keep nothing, or to begin anew, and fails throws nothing away before
// that: neither where XDP is not to be had, nor where AF_PACKET's director cannot be made.
func TestForgetFails(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	first := s.run("--plane", "xdp")
	s.oneConnection()
	s.stop(first)
	pins := pinsOf(s.pins, filepath.Join(s.dir, "ulvs.sock"))
	no := errors.New("no director")
	for _, o := range []auto.Options{
		{Plane: auto.XDP, Interfaces: []string{"eth0", "lo"}, Pins: pins, Forget: true, Fresh: true},
		{Plane: auto.Auto, Interfaces: []string{"eth0", "lo"}, Pins: pins, Forget: true, Fresh: true},
		{Plane: auto.AFPacket, Interfaces: []string{"eth0"}, Pins: pins, Fresh: true},
	} {
		before := s.outside(s.pins)
		if !strings.Contains(before, "program") {
			t.Fatalf("there is no program:\n%s", before)
		}
		if err := s.director.Do(func() error {
			_, err := auto.Open(o, func(dataplane.Plane) error { return no })
			return err
		}); err == nil {
			t.Errorf("%+v opens", o)
		}
		if d := cmp.Diff(before, s.outside(s.pins)); d != "" {
			t.Errorf("%+v: something has changed (-before +after):\n%s", o, d)
		}
	}
	s.stop(s.run("--plane", "xdp")) // which goes on with it
}
