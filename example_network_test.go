package ulvs_test

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/director"
)

// On a real network; the README has the same lines.
func Example_network() {
	ctx := context.Background()

	plane, _ := afpacket.New(afpacket.Options{Interfaces: []string{"eth0"}})
	d, _ := director.New(director.Options{Plane: plane})
	web := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	_ = d.AddService(ulvs.Service{ServiceKey: web, Scheduler: "rr",
		Persistence: ulvs.Persistence{Timeout: 5 * time.Minute}})
	_ = d.AddDestination(web, ulvs.Destination{
		Addr: netip.MustParseAddr("192.0.2.200"), Port: 80, Weight: 1})
	_ = d.Run(ctx) // until ctx ends
}

// What the README shows compiles: it is Example_network's body.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_network_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(readme), "```go\n")
	if !ok {
		t.Fatal("the README has no Go in it")
	}
	block, _, _ = strings.Cut(block, "```")
	var indented strings.Builder
	for line := range strings.Lines(block) {
		indented.WriteString("\t" + line)
	}
	if !strings.Contains(string(source), indented.String()) {
		t.Errorf("the README's example is not this file's:\n%s", indented.String())
	}
}
