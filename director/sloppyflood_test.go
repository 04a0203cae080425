package director_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
)

// With sloppy_tcp one packet establishes a connection. A flood of such packets, whose senders nobody
// has heard of again, keeps no client from the services.
func TestFloodSloppy(t *testing.T) {
	b := newBed(t, director.Options{Connections: 512, Templates: 256})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 4)
	if err := b.SetSysctl("sloppy_tcp", 1); err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		b.send(pkt{src: fmt.Sprintf("11.%d.%d.1:1000", i/256, i%256), dst: vip + ":80", flags: "A"})
		if i%100 == 99 {
			b.move(100 * time.Millisecond)
		}
	}
	s := &shop{b, vip + ":80", map[string]string{}}
	s.open("10.1.1.1:1000")
	s.check()
	if n := b.counter("drop_connections_full"); n > 0 {
		t.Errorf("drop_connections_full: %d", n)
	}
}
