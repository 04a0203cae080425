package xdp

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
)

var update = flag.Bool("update", false, "write the golden listings anew")

// TestListing keeps the program for people to read, and the one on a BPF hash map
// that BenchmarkEstablished compares it with; and the one with sockets, which opens
// connections.
func TestListing(t *testing.T) {
	for name, p := range listed() {
		golden(t, "testdata/"+name+".golden", p.Listing())
	}
}

// TestInstructions holds the bare instructions, without what the listing says of them:
// they stay the same where only words and pieces of the emitter change.
func TestInstructions(t *testing.T) {
	var sums strings.Builder
	all := listed()
	for name, change := range map[string]func(*program.Config){
		"generic":       func(p *program.Config) { p.Sockets = 0 },
		"lookup helper": func(p *program.Config) { p.LookupHelper = true },
		"three MACs":    func(p *program.Config) { p.MACs = append(p.MACs, router, dataplane.MAC{2, 3}) },
		"ticks as they are": func(p *program.Config) {
			p.Ticks = program.Ticks{Mul: 250, Div: 250, Offset: 77}
		},
	} {
		p := *all["opens"]
		p.MACs = slices.Clone(p.MACs)
		change(&p)
		all[name] = &p
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		hash := sha256.New()
		if err := p.Assemble().Marshal(hash, binary.LittleEndian); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&sums, "%x  %s\n", hash.Sum(nil), name)
	}
	golden(t, "testdata/instructions.sha256", sums.String())
}

// golden compares what a file holds, or writes it anew.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the program is not %s; if it should not be, run: go test ./dataplane/xdp -run 'Listing|Instructions' -update", file)
	}
}

// listed are the programs that are kept, by name.
func listed() map[string]*program.Config {
	list := map[string]*program.Config{}
	seed := [6]uint64{}
	for i := range seed {
		seed[i] = uint64(i) * 0x1111_1111_1111_1111
	}
	for name, hashed := range map[string]int{"array": 0, "hash": 4, "opens": 0} {
		p := program.Config{
			Acceleration: accel.Acceleration{TableShape: accel.TableShape{Seed: seed, Homes: 1000, Slots: 1500}, Hz: 250},
			Conns:        1, Servers: 2, Counts: 3, Settings: 5, CPUs: 2, Path: program.Forward(), Ifindex: 1, Hashed: hashed, HashedWords: 5,
			MACs: []dataplane.MAC{own}, Ticks: program.Ticks{Mul: 250, Div: 1000, Offset: 77}, ServersPerCPU: 64,
		}
		if name == "opens" {
			p.Templates = p.TableShape
			p.Sockets, p.Claims, p.Services, p.Sequences, p.TemplateTable, p.Rings, p.Crossings = 6, 7, 8, 12, 9, 10, 11
			p.Queues, p.GivesBack = 4, true
		}
		list[name] = &p
	}
	return list
}
