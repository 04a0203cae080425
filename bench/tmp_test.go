package bench

import (
	"os"
	"testing"
	"time"
)

func TestTmp(t *testing.T) {
	s := setup{}
	if os.Getenv("TMP_PERSIST") != "" {
		s = setup{persistence: 5 * time.Minute, anyPort: true}
	}
	s.connections = 1 << 13
	r := s.build(t)
	f, c := newFrames(t, s.service(0), syn), &crowd{conns: 1}
	for i := 0; i < 160_000; i += batch {
		r.handle(c.fill(f))
		r.plane.Advance(batch * time.Minute / (1 << 12))
	}
}
