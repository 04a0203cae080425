package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// TestUploads has clients send all they can by kernel forwarding and by the plane tcx in turns, on a bed
// where the client's packets are all sent by one processor and received by the other: forwarding
// overtakes nothing there, and neither may the plane.
func TestUploads(t *testing.T) {
	needsMachine(t)
	if runtime.NumCPU() < 2 {
		t.Skip("two processors")
	}
	u := newUploads(t)
	for _, flows := range []int{1, 10, 100} {
		var forwarding, plane []float64
		for range 5 {
			rate, overtaken := u.forwarded(flows)
			forwarding = append(forwarding, rate)
			if overtaken.sum() > 0 {
				t.Logf("%d connections: the bed itself: %v", flows, overtaken)
			}
			u.serveBy("tcx")
			rate, overtaken = u.upload(flows)
			u.stop()
			plane = append(plane, rate)
			if overtaken.sum() > 0 {
				t.Errorf("%d connections: overtaken on tcx: %v", flows, overtaken)
			}
		}
		a, b := middle(forwarding), middle(plane)
		t.Logf("%d connections: forwarding %.1f Gbit/s, tcx %.1f: %.2f of it, limit 0.95", flows, a, b, b/a)
		if b < 0.95*a {
			t.Errorf("%d connections: %v Gbit/s, forwarding %v", flows, plane, forwarding)
		}
	}
}

func middle(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }

// uploads are a client, a director and a server, whose interfaces receive on a processor each.
type uploads struct {
	*site
	daemon *lab.Cmd
}

const uploadPort = 81

func newUploads(t *testing.T) *uploads {
	s, _ := newLoadSite(t)
	u := &uploads{site: s}
	for host, mask := range map[*lab.Host]int{s.client: 1, s.director: 1, s.server: 2} {
		// Of a namespace's interfaces only a sysfs knows that was mounted in it.
		u.in(host, "unshare", "-m", "sh", "-c", fmt.Sprintf("mount -t sysfs s /sys && echo %d >/sys/class/net/eth0/queues/rx-0/rps_cpus", mask))
	}
	serveAt(t, s.server, "tcp4", fmt.Sprint(":", uploadPort), func(c net.Conn) {
		onProcessor(1)
		_, _ = io.Copy(io.Discard, c)
	})
	return u
}

// in runs a command on a host.
func (u *uploads) in(h *lab.Host, words ...string) {
	u.t.Helper()
	if out, err := h.Command(u.t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
		u.t.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// onProcessor has the goroutine run on a processor, until it ends.
func onProcessor(cpu int) {
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(cpu)
	_ = unix.SchedSetaffinity(0, &one)
}

// forwarded uploads by the kernel's own forwarding.
func (u *uploads) forwarded(flows int) (rate float64, _ reordered) {
	for _, words := range [][]string{
		{"sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0"},
		{"ip", "route", "add", loadVIP + "/32", "via", "192.168.10.200"},
	} {
		u.in(u.director, words...)
	}
	defer u.in(u.director, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	defer u.in(u.director, "ip", "route", "del", loadVIP+"/32")
	return u.upload(flows)
}

func (u *uploads) serveBy(plane string) {
	u.t.Helper()
	u.daemon = u.start("--interface", "eth0", "--plane", plane, "--pin", "none", "--connections", "40000")
	u.commands(fmt.Sprintf(`
		ipvsadm -A -t %[1]s:%[2]d -s rr
		ipvsadm -a -t %[1]s:%[2]d -r 192.168.10.200 -g
	`, loadVIP, uploadPort))
}

func (u *uploads) stop() {
	u.t.Helper()
	_ = u.daemon.Process.Signal(unix.SIGTERM)
	_ = u.daemon.Wait()
}

// upload has so many connections send for two seconds, and returns the Gbit/s and what was overtaken.
func (u *uploads) upload(flows int) (rate float64, _ reordered) {
	u.t.Helper()
	const lasts = 2 * time.Second
	before := u.reordered()
	var all sync.WaitGroup
	var sent atomic.Int64
	block := make([]byte, 256<<10)
	end := time.Now().Add(lasts)
	for range flows {
		var c net.Conn
		err := u.client.Do(func() (err error) {
			c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(netip.MustParseAddr(loadVIP), uploadPort).String(), 3*time.Second)
			return err
		})
		if err != nil {
			u.t.Fatal(err)
		}
		all.Go(func() {
			onProcessor(0)
			defer c.Close()
			_ = c.SetDeadline(end)
			for {
				n, err := c.Write(block)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return float64(sent.Load()) * 8 / lasts.Seconds() / 1e9, u.reordered().less(before)
}

// reordered is what TCP at both ends says of segments that were overtaken.
type reordered map[string]int

func (r reordered) sum() (n int) {
	for _, v := range r {
		n += v
	}
	return n
}

func (r reordered) less(was reordered) reordered {
	for name := range r {
		r[name] -= was[name]
	}
	return r
}

func (u *uploads) reordered() reordered {
	u.t.Helper()
	r := reordered{}
	for _, h := range []*lab.Host{u.client, u.server} {
		var text []byte
		err := h.Do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/netstat")
			return err
		})
		if err != nil {
			u.t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for at, name := range names {
				if slices.Contains([]string{"TCPOFOQueue", "TCPSACKReorder", "TCPTSReorder"}, name) {
					n, _ := strconv.Atoi(values[at])
					r[name] += n
				}
			}
		}
	}
	return r
}
