package ulvs_test

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/director"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/neigh"
)

// On a real network; the README has the same lines.
func ExampleDirector() {
	ctx := context.Background()

	resolver, _ := neigh.New(neigh.Options{})
	plane, _ := afpacket.New(afpacket.Options{Interfaces: []string{"eth0"}})
	director, _ := director.New(director.Options{Plane: plane, Resolver: resolver})
	web := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	_ = director.AddService(ulvs.Service{ServiceKey: web, Scheduler: "rr",
		Persistence: ulvs.Persistence{Timeout: 5 * time.Minute}})
	_ = director.AddDestination(web, ulvs.Destination{
		Addr: netip.MustParseAddr("192.0.2.200"), Port: 80, Weight: 1})
	go resolver.Run(ctx)
	_ = director.Run(ctx) // until ctx ends
}

// What the README shows compiles: it is ExampleDirector's body.
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
