package kernel

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/guest"
	"golang.org/x/sync/errgroup"
)

var (
	guests = flag.Bool("guests", false, "boot Debian's kernel in qemu (BenchmarkKernel), fetched if need be")
	watch  = flag.Bool("watch", false, "show what the guests print, as it comes")
	series = flag.String("series", "6.1", "the kernel's `SERIES`: 6.1 or, which has tcx, 6.12")
	only   = flag.String("only", "", "only loads whose names match this `EXPRESSION`")
	inside = flag.String("inside", "", "this is a guest: its `LOADS`, with commas between them")
)

// TestInside is what BenchmarkKernel runs in a guest: loads, each with all contenders.
func TestInside(t *testing.T) {
	if *inside == "" {
		t.Skip("BenchmarkKernel runs it, in a guest")
	}
	// The generator would be another process: it is not to wait for the director's
	// goroutines, nor they for its system calls.
	runtime.GOMAXPROCS(2)
	if err := slacken(); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split(*inside, ",") {
		i := slices.IndexFunc(loads, func(l load) bool { return l.name == name })
		if i < 0 {
			t.Fatalf("there is no load %s", name)
		}
		t.Run(name, func(t *testing.T) { measure(t, loads[i]) })
	}
}

// machine is a guest: its loads, and the size of IPVS's table, which its module is loaded
// with.
type machine struct {
	bits  int
	loads []string
}

// machines divides loads among guests. What is compared is in one.
func machines(loads []load) (list []machine) {
	list = []machine{{bits: 20}, {bits: 20}, {bits: 12}}
	for i, l := range loads {
		at := &list[i%2]
		if l.small {
			at = &list[2]
		}
		at.loads = append(at.loads, l.name)
	}
	return slices.DeleteFunc(list, func(m machine) bool { return len(m.loads) == 0 })
}

// Every load is in one guest, and those with a table of another size in another.
func TestMachines(t *testing.T) {
	in := map[string]int{}
	for _, m := range machines(loads) {
		for _, name := range m.loads {
			in[name] = m.bits
		}
	}
	for _, l := range loads {
		want := 20
		if l.small {
			want = 12
		}
		if in[l.name] != want {
			t.Errorf("%s is with 2^%d buckets", l.name, in[l.name])
		}
	}
	if len(in) != len(loads) {
		t.Errorf("%d loads of %d", len(in), len(loads))
	}
}

// BenchmarkKernel has all contenders take all loads, and reports the medians of the
// rounds, for each packet, or for each connection of six packets: with-wire, from which
// nothing is subtracted; instructions, without what the wire takes; over-bare, without what
// the least forwarder takes; times-fewer, by how much the instructions are less than kernel
// IPVS's; and the spread of the rounds, as a share of with-wire.
func BenchmarkKernel(b *testing.B) {
	if !*guests {
		b.Skip("without -guests, no other kernel is asked")
	}
	chosen := regexp.MustCompile(*only)
	asked := slices.DeleteFunc(slices.Clone(loads), func(l load) bool { return !chosen.MatchString(l.name) })
	r := results{}
	output, err := bootAll(b, machines(asked))
	if err == nil {
		err = r.read(strings.NewReader(output))
	}
	if err != nil {
		b.Fatalf("%v\n%s", err, output)
	}
	for _, l := range asked {
		for _, c := range contenders {
			if !c.takes(l) {
				continue
			}
			b.Run(l.name+"/"+c.name, func(b *testing.B) {
				f, ok := r.figure(l, c)
				if !ok {
					b.Fatalf("the guests have nothing of it:\n%s", output)
				}
				for b.Loop() {
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(f.all, "with-wire")
				b.ReportMetric(f.spread, "spread")
				if c.sends {
					b.ReportMetric(f.net, "instructions")
					b.ReportMetric(f.fewer, "times-fewer")
				}
				if c.name == fast && l.scheduler == "mh" { // the bound: sh, and this
					b.ReportMetric(float64(program.SipInstructions()), "of-its-hash")
				}
				if c.name != c.by.wire && c.name != c.by.bare {
					b.ReportMetric(f.over, "over-bare")
				}
			})
		}
	}
}

// bootAll runs the guests, each on a processor of the host's, and returns what they
// print.
func bootAll(b *testing.B, machines []machine) (output string, err error) {
	ctx, cancel := context.WithTimeout(b.Context(), 50*time.Minute)
	defer cancel()
	kernel, err := guest.Kernel(ctx, *series)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(b.TempDir(), "kernel.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return string(out), err
	}
	outputs := make([]bytes.Buffer, len(machines))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2) // processors
	for i, m := range machines {
		g.Go(func() error {
			var out io.Writer = &outputs[i]
			if *watch {
				out = io.MultiWriter(out, os.Stderr)
			}
			code, err := guest.Run(ctx, guest.Options{
				Kernel: kernel, Binary: binary, Icount: true, Memory: 2048, Stdout: out,
				Args:       []string{"-test.run=^TestInside$", "-test.timeout=0", "-inside=" + strings.Join(m.loads, ",")},
				Modules:    modules(),
				Parameters: map[string]string{"ip_vs": fmt.Sprintf("conn_tab_bits=%d", m.bits)},
			})
			if err == nil && code != 0 {
				err = fmt.Errorf("the guest with %v failed", m.loads)
			}
			return err
		})
	}
	err = g.Wait()
	for i := range outputs {
		output += outputs[i].String()
	}
	return output, err
}

// modules are those that the guests load.
func modules() []string {
	list := []string{"veth", "bridge", "8021q", "sch_ingress", "cls_bpf", "nf_tables", "ip_vs"}
	for _, l := range loads {
		if name := "ip_vs_" + l.schedulerName(); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}
