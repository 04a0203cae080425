package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var uploadPlanes = flag.String("uploads-planes", "tcx,auto", "by which planes TestUploads uploads")

// TestUploads has clients send all they can by kernel forwarding and by planes in turns, on a bed where the client's
// packets are all sent by one processor and received by the other: forwarding overtakes nothing there, and drops
// nothing, and neither may a plane.
func TestUploads(t *testing.T) {
	needsMachine(t)
	if runtime.NumCPU() < 2 {
		t.Skip("two processors")
	}
	for _, c := range []struct {
		name string
		six  bool
		size int
	}{{"IPv4, 64 KB", false, 65536}, {"IPv4, 180,000 bytes", false, 180000}, {"IPv6, 180,000 bytes", true, 180000}} {
		t.Run(c.name, func(t *testing.T) {
			u := newUploads(t, c.six, c.size)
			u.steer()
			for _, flows := range []int{1, 10, 100} {
				u.compare(flows, strings.Split(*uploadPlanes, ","))
			}
		})
	}
}

// compare has so many connections upload in five turns.
func (u *uploads) compare(flows int, planes []string) {
	const lasts = 2 * time.Second
	rates, wrong := map[string][]float64{}, map[string]befell{}
	how := map[string]string{}
	turn := func(name string) func() {
		return func() {
			rate, what := u.upload(flows, lasts)
			rates[name] = append(rates[name], rate)
			if wrong[name] == nil {
				wrong[name] = befell{}
			}
			for k, n := range what {
				wrong[name][k] += n
			}
		}
	}
	for range 5 {
		u.forwarded(turn("forwarding"))
		for _, plane := range planes {
			how[plane] = u.served(plane, turn(plane))
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	bed := middle(rates["forwarding"])
	u.t.Logf("%d connections: forwarding %.1f Gbit/s, %v; the load is %s", flows, bed, wrong["forwarding"], load)
	for _, plane := range planes {
		is := middle(rates[plane])
		text := fmt.Sprintf("%d connections, %s (%s): %.1f Gbit/s, %.2f of forwarding's, limit 0.95; %v", flows, plane,
			how[plane], is, is/bed, wrong[plane])
		u.t.Log(text)
		if is < 0.95*bed {
			u.t.Errorf("%d connections: %s has %v Gbit/s, forwarding %v", flows, plane, rates[plane], rates["forwarding"])
		}
		if wrong[plane].wrong() > 0 {
			u.t.Errorf("%d connections, %s: overtaken or dropped: %v", flows, plane, wrong[plane])
		}
	}
}

func middle(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }

// Frames larger than an IP header can say are forwarded by the program as they come, and the daemon gets
// first packets alone.
func TestLargeFrames(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	t.Parallel()
	for _, six := range []bool{false, true} {
		for _, plane := range []string{"tcx", "auto"} {
			t.Run(fmt.Sprint("IPv6 ", six, ", ", plane), func(t *testing.T) {
				t.Parallel()
				u := newUploads(t, six, 180000)
				u.served(plane, u.sendsLarge)
			})
		}
	}
}

func (u *uploads) sendsLarge() {
	const bytes = 30 << 20
	largest := u.largest()
	c := u.dial()
	for range bytes >> 20 {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			u.t.Fatal(err)
		}
	}
	c.Close()
	u.await(bytes)
	if n := largest(); n < 100_000 {
		u.t.Errorf("the largest frame had %d bytes: the test does not test what it means to", n)
	}
	s := u.status()
	if s["rx_cut"]+s["rx_truncated"] > 0 || s["rx_frames"] > 3 || s["xdp_frames"] < bytes/180000 {
		out, _ := u.ulvs("", "ulvs", "status", "--all")
		u.t.Errorf("not all frames but the first were forwarded by the program:\n%s", out)
	}
}
