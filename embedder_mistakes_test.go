package ulvs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/dataplane/neigh"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/hostlimit"
	"github.com/ulvs/ulvs/persist"
)

// bare is a plane without a resolver.
type bare struct{ dataplane.Plane }

// What whoever embeds a package has forgotten is said.
func TestEmbedderMistakes(t *testing.T) {
	for want, do := range map[string]func() error{
		"conn.Options need Expired":                  func() error { _, err := conn.New(conn.Options{}); return err },
		"persist.Options need Ended":                 func() error { _, err := persist.New(persist.Options{}); return err },
		"expiring.Options need Hz":                   func() error { _, err := expiring.New[uint32, uint32](expiring.Options[uint32]{}, nil); return err },
		"director.Options need a Plane":              func() error { _, err := director.New(director.Options{}); return err },
		"director.Options need a Resolver: the test": func() error { _, err := director.New(director.Options{Plane: bare{dataplanetest.New()}}); return err },
		"xdp.Options need Interfaces and Slow":       func() error { _, err := xdp.New(xdp.Options{}); return err },
		"plane nosuch: there are auto, afpacket, tcx and xdp": func() error {
			_, err := auto.Open(auto.Options{Plane: "nosuch", Interfaces: []string{"lo"}}, nil)
			return err
		},
		"negative interval (Verify -1ns, HoldDown 0s): give 0 for the default": func() error {
			_, err := neigh.New(neigh.Options{Verify: -time.Nanosecond})
			return err
		},
		"no sysctls of ICMP in /nowhere: is /proc mounted?": func() error { _, err := hostlimit.Read("/nowhere"); return err },
	} {
		if err := do(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
