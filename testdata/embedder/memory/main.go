// Command memory has a director decide about packets without a network.
package main

import (
	"fmt"
	"log"
	"net/netip"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
)

func main() {
	plane := dataplanetest.New()
	d, err := director.New(director.Options{Plane: plane, Connections: 1000})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	web := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	if err := d.AddService(ulvs.Service{ServiceKey: web, Scheduler: "rr"}); err != nil {
		log.Fatal(err)
	}
	server := netip.MustParseAddr("192.0.2.200")
	plane.Hops.SetReachable(server, 2, [6]byte{2, 0, 0, 0, 0, 200})
	if err := d.AddDestination(web, ulvs.Destination{Addr: server, Port: 80, Weight: 1}); err != nil {
		log.Fatal(err)
	}
	services, err := d.Services()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d service: %v\n", len(services), services[0].Service)
}
