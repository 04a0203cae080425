package ulvs_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
)

// A director with one persistent service, on a plane in memory.
func Example() {
	plane := dataplanetest.New()
	d, err := director.New(director.Options{Plane: plane, Connections: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()

	web := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	err = d.AddService(ulvs.Service{ServiceKey: web, Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: 5 * time.Minute}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, server := range []string{"192.0.2.200", "192.0.2.201"} {
		plane.Hops.SetReachable(netip.MustParseAddr(server), 2, [6]byte{2, 0, 0, 0, 0, 1})
		err := d.AddDestination(web, ulvs.Destination{Addr: netip.MustParseAddr(server), Port: 80, Weight: 1})
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := d.Run(ctx); err != nil {
		fmt.Println(err)
	}
	services, _ := d.Services()
	for _, s := range services {
		fmt.Println(s.ServiceKey, s.Scheduler, s.Persistence.Timeout)
		for _, dst := range s.Destinations {
			fmt.Println(" ", dst.AddrPort(), dst.Forward, dst.Weight, dst.ActiveConns, dst.InactConns)
		}
	}
	// Output:
	// -t 192.0.2.1:80 rr 5m0s
	//   192.0.2.201:80 Route 1 0 0
	//   192.0.2.200:80 Route 1 0 0
}
