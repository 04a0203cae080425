package afpacket

import (
	"net"
	"os"
	"strings"
)

// A claimed frame gets past our own ingress chain by another interface: it is
// sent to lo, where the host takes it for what it is, a packet to one of its
// addresses. A strict reverse path filter would not let it in there
// (net/ipv4/fib_frontend.c, fib_validate_source).

// loopback returns the index of lo if frames can be injected there, else 0.
func loopback() int {
	lo, err := net.InterfaceByName("lo")
	if err != nil || lo.Flags&net.FlagUp == 0 {
		return 0
	}
	for _, conf := range []string{"all", "lo"} {
		// Those of the calling thread's network namespace.
		mode, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + conf + "/rp_filter")
		if err != nil || strings.TrimSpace(string(mode)) == "1" {
			return 0
		}
	}
	return lo.Index
}
