// Command xdp balances what comes to eth0 for a moment, by XDP where that works; what it
// has is kept in the folder that is its argument, for the next one.
package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/director"
)

func main() {
	var d *director.Director
	opened, err := auto.Open(auto.Options{Interfaces: []string{"eth0"}, Pins: os.Args[1]}, func(p auto.Plane) (err error) {
		d, err = director.New(director.Options{Plane: p, Connections: 1000})
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	if !d.Adopted() {
		web := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
		if err := d.AddService(ulvs.Service{ServiceKey: web}); err != nil {
			log.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := d.Run(ctx); err != nil {
		log.Fatal(err)
	}
	services, err := d.Services()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ran on %s, adopted %v, %d service\n", opened.Plane.Name(), d.Adopted(), len(services))
}
