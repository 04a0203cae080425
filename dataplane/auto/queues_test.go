package auto_test

import (
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/dataplane/xdp"
)

// An interface may have more queues than there are sockets: what comes by those goes to the plane behind, and the
// program does not wait for it, so that flows pass to it again after their timeouts have changed, and UDP's begin
// by it.
func TestMoreQueuesThanSockets(t *testing.T) {
	const queues, flows = 32, 40 // of sockets there are eleven
	s := newStreet(t, shape{plane: auto.XDP, sockets: xdp.SocketsOn, queues: queues})
	s.offer(ulvs.UDP, portEarly, "rr")
	var walks []walk
	for range flows {
		w, _ := s.established(ulvs.UDP)
		walks = append(walks, w)
	}
	grown := s.counts(func() {
		s.must(s.d.SetTimeouts(ulvs.Timeouts{UDP: time.Hour}))
		for _, w := range walks {
			s.direct(w, 100)
		}
	})
	if n := grown["maybe_overtaken"]; n > 0 {
		t.Errorf("%d packets may have been overtaken", n)
	}
	if grown["rx_frames"] == 0 {
		t.Error("no packet came by a queue without a socket")
	}
}
