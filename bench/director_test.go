package bench

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
)

var vip = netip.MustParseAddrPort("192.168.10.101:80")

// setup is a director to be, with services of one kind and without a plane's cost.
type setup struct {
	connections int
	services    int    // 0: 1; from VIP:80 upwards
	servers     int    // of each service; 0: 2
	scheduler   string // "": rr
	weight      func(i int) int32
	persistence time.Duration
	anyPort     bool // PCC: the service is VIP:0
	marked      bool // the services are firewall marks, from 1 upwards
}

// service is whom packets for service i are addressed to.
func (s setup) service(i int) netip.AddrPort {
	a := vip.Addr().As4()
	a[2] += byte(i >> 8)
	a[3] += byte(i)
	return netip.AddrPortFrom(netip.AddrFrom4(a), vip.Port())
}

// rig is a director in whose mouth frames are put.
type rig struct {
	*director.Director
	tb    testing.TB
	plane *dataplanetest.Plane
}

func (r *rig) must(err error) {
	if err != nil {
		r.tb.Helper()
		r.tb.Fatal(err)
	}
}

func (s setup) build(tb testing.TB) *rig {
	tb.Helper()
	plane, resolver := dataplanetest.New(), dataplanetest.NewResolver()
	d, err := director.New(director.Options{Plane: plane, Resolver: resolver, Connections: s.connections, Templates: s.connections, Clock: plane.Now})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Close)
	r := &rig{d, tb, plane}
	if s.scheduler == "" {
		s.scheduler = "rr"
	}
	if s.weight == nil {
		s.weight = func(int) int32 { return 1 }
	}
	if s.marked {
		r.mark(&s)
	}
	for i := range max(s.services, 1) {
		to := s.service(i)
		k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: to.Addr(), Port: to.Port()}
		if s.anyPort {
			k.Port = 0
		}
		if s.marked {
			k = ulvs.ServiceKey{Mark: uint32(1 + i)}
		}
		r.must(d.AddService(ulvs.Service{ServiceKey: k, Scheduler: s.scheduler, Persistence: ulvs.Persistence{Timeout: s.persistence}}))
		n := s.servers
		if n == 0 {
			n = 2
		}
		for j := range n {
			a := netip.AddrFrom4([4]byte{172, 16 + byte(j>>16), byte(j >> 8), byte(j)})
			resolver.SetReachable(a, 2, dataplane.MAC{2, 0, 0, byte(j >> 16), byte(j >> 8), byte(j)})
			r.must(d.AddDestination(k, ulvs.Destination{Addr: a, Port: k.Port, Weight: s.weight(j)}))
		}
	}
	return r
}

// mark has rules give packets to each service's address a mark, as for shops with
// several ports.
func (r *rig) mark(s *setup) {
	var rules strings.Builder
	rules.WriteString("*mangle\n")
	for i := range max(s.services, 1) {
		fmt.Fprintf(&rules, "-A PREROUTING -d %v/32 -p tcp -m multiport --dports 80,443 -j MARK --set-mark %d\n", s.service(i).Addr(), 1+i)
	}
	rules.WriteString("COMMIT\n")
	r.must(r.MarkRestore(false, rules.String()))
}

// handle puts a batch through, and checks now and then that it is forwarded.
func (r *rig) handle(list []dataplane.Frame) {
	r.Handle(r.plane.Now(), list)
	if last := &list[len(list)-1]; last.Verdict != dataplane.Transmit {
		r.tb.Fatalf("verdict %v; counters: %v", last.Verdict, r.counters())
	}
}

func (r *rig) counters() map[string]uint64 {
	c, err := r.Counters()
	r.must(err)
	for name, n := range c {
		if n == 0 {
			delete(c, name)
		}
	}
	return c
}
