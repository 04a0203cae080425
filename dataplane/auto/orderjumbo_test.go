package auto_test

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/auto"
)

// An upload in frames that are larger than an IPv6 header can say, and have a jumbo payload option, passes from Go to
// the program again and again, as its timeouts change, and no packet overtakes another one.
func TestJumbosUnderWay(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("it takes a CPU that sends, and one that receives")
	}
	s := newStreet(t, shape{plane: auto.TCX})
	s.enlarge()
	c := s.dial(true, portFast)
	const size = 1 << 20
	s.ask(c, size)
	defer s.onOneCPU()()
	before := s.outOfOrder()
	grown := s.counts(func() {
		for round := range 30 {
			s.must(s.d.SetTimeouts(ulvs.Timeouts{TCP: time.Duration(round+1) * time.Minute}))
			s.until("the program forwards the upload", func() bool {
				grown := s.counts(func() { s.ask(c, size) })
				return grown["xdp_frames"] > 0 && grown["rx_frames"] == 0
			})
		}
	})
	if n := s.outOfOrder() - before; n > 0 {
		t.Errorf("%d segments came before earlier ones", n)
	}
	if n := grown["maybe_overtaken"]; n > 0 {
		t.Errorf("%d packets may have been overtaken", n)
	}
	if grown["rx_cut"] == 0 {
		t.Error("no frame that came to Go was so large: the test does not test what it means to")
	}
}

// enlarge has all interfaces take such frames.
func (s *street) enlarge() {
	s.Helper()
	all := func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				err = errors.Join(err, netlink.LinkSetGSOMaxSize(l, 180_000), netlink.LinkSetGROMaxSize(l, 180_000))
			}
		}
		return err
	}
	for _, h := range s.lab.Hosts() {
		s.must(h.Do(all))
	}
	s.must(s.lab.Do(all))
}

// outOfOrder is how many segments have come to real servers before earlier ones.
func (s *street) outOfOrder() (n int) {
	s.Helper()
	for _, h := range s.lab.Hosts()[2:] {
		s.must(h.Do(func() error {
			all, err := os.ReadFile("/proc/thread-self/net/netstat")
			var names []string
			for line := range strings.Lines(string(all)) {
				values, is := strings.CutPrefix(line, "TcpExt:")
				if !is {
					continue
				}
				if names == nil {
					names = strings.Fields(values)
					continue
				}
				for i, v := range strings.Fields(values) {
					if names[i] == "TCPOFOQueue" {
						one, failed := strconv.Atoi(v)
						n, err = n+one, errors.Join(err, failed)
					}
				}
			}
			return err
		}))
	}
	return n
}
