package hostlink

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/dataplane"
)

// What is heard of an interface may be late, and its number another one's by then, which has not gone.
func TestDepartureOfAnother(t *testing.T) {
	ours, other := dataplane.MAC{2, 0, 0, 0, 0, 1}, dataplane.MAC{2, 0, 0, 0, 0, 2}
	is := Link{Index: 3, MAC: ours}
	for _, c := range []struct {
		what       string
		gone, have dataplane.MAC
		others     bool
	}{
		{"ours, which is back", ours, ours, false},
		{"another one's", other, ours, true},
		{"ours, whose address has changed, and one with its number", other, other, false},
		{"nobody's that is known", dataplane.MAC{}, ours, false},
		{"another one's, whose number has by now one without a link address", other, dataplane.MAC{}, false},
	} {
		attrs := netlink.NewLinkAttrs()
		if c.have != (dataplane.MAC{}) {
			attrs.HardwareAddr = net.HardwareAddr(c.have[:])
		}
		if got := (departure{mac: c.gone}).others(is, &netlink.Dummy{LinkAttrs: attrs}); got != c.others {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
