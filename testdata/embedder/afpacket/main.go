// Command afpacket balances what comes to eth0 for a moment, by AF_PACKET.
package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/director"
)

func main() {
	plane, err := afpacket.New(afpacket.Options{Interfaces: []string{"eth0"}})
	if err != nil {
		log.Fatal(err)
	}
	d, err := director.New(director.Options{Plane: plane, Connections: 1000})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	web := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	if err := d.AddService(ulvs.Service{ServiceKey: web,
		Persistence: ulvs.Persistence{Timeout: 5 * time.Minute}}); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := d.Run(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ran on", plane.Name())
}
