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
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/guest"
	"golang.org/x/sync/errgroup"
)

var (
	guests = flag.Bool("guests", false, "boot Debian's kernel in qemu, and fetch it from Debian's mirror if need be (BenchmarkKernel)")
	watch  = flag.Bool("watch", false, "show what the guests print, as it comes")
	inside = flag.String("inside", "", "this is a guest: its `CONTENDERS`, with commas between them")
)

// TestInside is what BenchmarkKernel runs in a guest: all that its contenders take
// part in.
func TestInside(t *testing.T) {
	if *inside == "" {
		t.Skip("BenchmarkKernel runs it, in a guest")
	}
	// The generator would be another process: it is not to wait for the director's
	// goroutines, nor they for its system calls.
	runtime.GOMAXPROCS(2)
	for _, name := range strings.Split(*inside, ",") {
		if name == sinkLoad {
			t.Run(name, func(t *testing.T) { newSite(t).measureSink() })
			continue
		}
		c, ok := contenderOf(name)
		if !ok {
			t.Fatalf("there is no contender %s", name)
		}
		for _, l := range loads {
			if c.takes(l) {
				t.Run(name+"/"+l.name, func(t *testing.T) {
					s := newSite(t)
					s.catch(c.sink(l))
					c.start(s, l)
					if c.opens {
						s.open(l)
					}
					s.measure(l, name)
				})
			}
		}
	}
}

// The guests: one for each size of IPVS's table, which its module is loaded with.
var tables = []struct {
	bits       int
	contenders string
}{
	{20, sinkLoad + ",generator,wire,bare,hash,forward,ipvs-1M,ulvs-xdp,ulvs-afpacket"},
	{12, "ipvs-4k"},
}

// reference is whom all are compared with.
const reference = "ipvs-1M"

// BenchmarkKernel has all contenders take all loads, and reports the medians of five
// rounds: instructions/packet; times-fewer, by how much that is less than kernel
// IPVS's with a million buckets; the spread of the rounds, as a share; and
// with-wire/packet, from which nothing is subtracted.
func BenchmarkKernel(b *testing.B) {
	if !*guests {
		b.Skip("without -guests, no other kernel is asked")
	}
	r := results{}
	output, err := bootAll(b)
	if err == nil {
		err = r.read(strings.NewReader(output))
	}
	if err != nil {
		b.Fatalf("%v\n%s", err, output)
	}
	against, _ := contenderOf(reference)
	for _, l := range loads {
		base, _ := r.figure(l, against)
		for _, c := range contenders {
			if !c.takes(l) || c.sink(l) == noSink || c.sink(l) == wireSink {
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
				b.ReportMetric(f.instructions, "instructions/packet")
				b.ReportMetric(base.instructions/f.instructions, "times-fewer")
				b.ReportMetric(f.spread, "spread")
				b.ReportMetric(f.all, "with-wire/packet")
			})
		}
	}
}

// bootAll runs the guests, each on a processor of the host's, and returns what they
// print.
func bootAll(b *testing.B) (output string, err error) {
	ctx, cancel := context.WithTimeout(b.Context(), 25*time.Minute)
	defer cancel()
	kernel, err := guest.Kernel(ctx, "6.1")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(b.TempDir(), "kernel.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return string(out), err
	}
	outputs := make([]bytes.Buffer, len(tables))
	g, ctx := errgroup.WithContext(ctx)
	for i, t := range tables {
		g.Go(func() error {
			var out io.Writer = &outputs[i]
			if *watch {
				out = io.MultiWriter(out, os.Stderr)
			}
			code, err := guest.Run(ctx, guest.Options{
				Kernel: kernel, Binary: binary, Icount: true, Memory: 2048, Stdout: out,
				Args:       []string{"-test.run=^TestInside$", "-test.timeout=0", "-inside=" + t.contenders},
				Modules:    []string{"veth", "bridge", "dummy", "sch_ingress", "cls_bpf", "nf_tables", "ip_vs", "ip_vs_rr"},
				Parameters: map[string]string{"ip_vs": fmt.Sprintf("conn_tab_bits=%d", t.bits)},
			})
			if err == nil && code != 0 {
				err = fmt.Errorf("the guest with %s failed", t.contenders)
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
