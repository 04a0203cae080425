package hostmark_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/internal/hostmark"
)

// BenchmarkRead reads a host with many rules, in each of the two firewalls.
func BenchmarkRead(b *testing.B) {
	for _, flavour := range []string{"nft", "legacy"} {
		for _, n := range []int{10, 1000} {
			b.Run(fmt.Sprintf("%s-%d", flavour, n), func(b *testing.B) {
				h := newHost(b, "iptables-"+flavour)
				var text strings.Builder
				for i := range n {
					fmt.Fprintf(&text, "-A PREROUTING -d 10.%d.%d.1 -p tcp --dport 80 -j MARK --set-mark %d\n", i/256, i%256, i+1)
				}
				run(b, h, "iptables-"+flavour+"-restore <<'EOF'\n*mangle\n"+text.String()+"COMMIT\nEOF")
				err := h.Do(func() error {
					for b.Loop() {
						r, err := hostmark.Read()
						if err != nil || len(r.V4) != n {
							return fmt.Errorf("%d rules, %w", len(r.V4), err)
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
