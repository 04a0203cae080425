package director

import (
	"fmt"
	"strings"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/forward"
)

// Facts says how packets are carried: the plane's name and its own facts. It cannot fail.
func (d *Director) Facts() ([]ulvs.Fact, error) {
	facts := []ulvs.Fact{{Name: "plane", Value: d.plane.Name()}}
	if p, ok := d.plane.(dataplane.Described); ok {
		facts = append(facts, p.Facts()...)
	}
	return append(append(facts, unopened(d.path.Listing.Unopened(mostNamed))...), d.standby.facts()...), nil
}

// mostNamed is how many services of many are named.
const mostNamed = 5

// unopened names services, of n, whose connections are opened in Go, where the plane opens some.
func unopened(list []forward.Unopened, n int) []ulvs.Fact {
	if n == 0 {
		return nil
	}
	words := make([]string, len(list))
	for i, s := range list {
		shown := ""
		if all := s.ByPlane + s.InGo; all > 0 {
			shown = fmt.Sprintf("; %d of %d connections", s.InGo, all)
		}
		words[i] = fmt.Sprintf("%v (%s%s)", s.ServiceKey, s.Why, shown)
	}
	text := strings.Join(words, ", ")
	if n > len(list) {
		text += fmt.Sprintf(" and %d more services", n-len(list))
	}
	return []ulvs.Fact{{Name: "opened in Go", Value: text}}
}

// Services returns all services, in the kernel's order (ip_vs_genl_dump_services). Each is
// as it is at one moment. It cannot fail.
func (d *Director) Services() ([]ulvs.ServiceStatus, error) { return d.path.Listing.Services() }

// Total is what all services have counted together (ip_vs_stats_show). It cannot fail.
func (d *Director) Total() (ulvs.Total, error) { return d.path.Listing.Total() }

// Service returns one of them. The error is ulvs.ErrNoService.
func (d *Director) Service(k ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	return d.path.Listing.Service(clean(k))
}

// Conns calls yield for each connection, and then for each template, until it returns
// false (ip_vs_conn.c, ip_vs_conn_seq_show). The forwarding lock is held for some hundred
// slots at a time; what comes and goes meanwhile may be missed. It cannot fail.
func (d *Director) Conns(yield func(ulvs.ConnStatus) bool) error { return d.path.Listing.Conns(yield) }

// Counters returns the director's and its plane's since the start, by name: frames, drops by
// cause, and how full the tables are, in entries. It cannot fail.
func (d *Director) Counters() (map[string]uint64, error) { return d.path.Listing.Counters() }
