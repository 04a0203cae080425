// Command scheduler has a scheduler of its own: the real server that was added first.
package main

import (
	"fmt"
	"log"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/sched"
)

// oldest chooses the destination that was added first, of those that are usable.
type oldest struct{ dests []*sched.Dest }

func (s *oldest) Schedule(*sched.Request) *sched.Dest {
	for _, d := range slices.Backward(s.dests) {
		if d.Usable() {
			return d
		}
	}
	return nil
}

func (s *oldest) Added(dests []*sched.Dest, _ *sched.Dest)   { s.dests = dests }
func (s *oldest) Removed(dests []*sched.Dest, _ *sched.Dest) { s.dests = dests }
func (s *oldest) Updated(dests []*sched.Dest, _ *sched.Dest) { s.dests = dests }

func main() {
	err := sched.Register("oldest", func(dests []*sched.Dest, _ sched.Flags) sched.Scheduler { return &oldest{dests} })
	if err != nil {
		log.Fatal(err)
	}
	d, err := director.New(director.Options{Plane: dataplanetest.New(), Connections: 1000})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	web := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	if err := d.AddService(ulvs.Service{ServiceKey: web, Scheduler: "oldest"}); err != nil {
		log.Fatal(err)
	}
	s, err := d.Service(web)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Service)
}
