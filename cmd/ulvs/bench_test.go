package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/internal/lab"
)

// labSite is a lab as bench/LAB.md has it: a generator, which is the real server too,
// and a director with a daemon.
type labSite struct {
	*site
	generator *lab.Host
	at        wire.End // the director's
}

func newLabSite(t *testing.T, args ...string) *labSite {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n, err := wire.NewNet()
	must(err)
	t.Cleanup(func() { _ = n.Close() })
	near, far, err := n.Loop()
	must(err)
	for i, end := range []wire.End{near, far} {
		// What arrives by redirection would vanish in a veth pair without it.
		must(end.GRO())
		nl := end.Space.Netlink()
		link, err := nl.LinkByName(end.Name)
		must(err)
		must(nl.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 10, byte(200-100*i)), Mask: net.CIDRMask(24, 32)}}))
	}
	s := &labSite{site: &site{t: t, director: far.Space, client: near.Space, dir: t.TempDir()}, generator: near.Space, at: far}
	s.start(append([]string{"--interface", far.Name}, args...)...)
	for _, c := range []string{
		"ipvsadm -A -t 192.168.10.101:80 -s rr",
		"ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g",
	} {
		if out, code := s.ulvs("", strings.Fields(c)...); code != 0 {
			t.Fatalf("%s: %s", c, out)
		}
	}
	return s
}

// command is ulvs bench in the generator's namespace.
func (s *labSite) command(args ...string) (*lab.Cmd, *bytes.Buffer) {
	out := new(bytes.Buffer)
	c := s.generator.Command(context.Background(), "/proc/self/exe", append([]string{"bench"}, args...)...)
	c.Stdout, c.Stderr = out, out
	return c, out
}

func (s *labSite) generate(args ...string) (*lab.Cmd, *bytes.Buffer) {
	return s.command(append([]string{"generate", "--interface", "gen0", "--peer-mac", s.at.MAC.String(), "--vip", "192.168.10.101:80"}, args...)...)
}

func (s *labSite) run(args ...string) string {
	s.t.Helper()
	c, out := s.generate(args...)
	if err := c.Run(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return out.String()
}

// A generator's packets go through a director and back, all of them, and it says so.
func TestBench(t *testing.T) {
	s := newLabSite(t, "--plane", "xdp")
	number, space, more := regexp.MustCompile(`[0-9]+(\.[0-9]+)*`), regexp.MustCompile(` +`), regexp.MustCompile(`(, N: N)+`)
	shape := func(text string) string {
		return more.ReplaceAllString(space.ReplaceAllString(number.ReplaceAllString(text, "N"), " "), "")
	}
	var said strings.Builder
	say := func(args ...string) {
		said.WriteString("$ ulvs bench generate … " + strings.Join(args, " ") + "\n" + shape(s.run(args...)))
	}
	say("--flows", "100", "--rate", "2000", "--seconds", "2")
	say("--new", "--rate", "2000", "--seconds", "1")
	golden(t, "bench.golden", said.String())

	for _, args := range [][]string{
		{"--flows", "100", "--rate", "5000", "--seconds", "2", "--size", "200", "--client", "10.1.0.0"},
		{"--new", "--rate", "1000", "--seconds", "2", "--client", "10.0.0.1", "--per-client", "16"},
	} {
		before := s.status()
		var r report
		out := s.run(append(args, "--json")...)
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		rate := map[bool]uint64{false: 10000, true: 2000}[r.New] // in both seconds, but for what a busy machine leaves out
		if r.Sent < rate/5 || r.Sent > rate*11/10 || r.Returned != r.Sent || r.Lost != 0 || len(r.Seconds) != 2 || r.Interrupted {
			t.Errorf("%v: %s", args, out)
		}
		var seconds uint64
		for _, x := range r.Seconds {
			seconds += x.Sent
		}
		if seconds > r.Sent || seconds < r.Sent*8/10 {
			t.Errorf("%d of %d packets are in its seconds", seconds, r.Sent)
		}
		after := s.status()
		if r.New {
			if n := after["connections"] - before["connections"]; n != int(r.Sent) {
				t.Errorf("%d connections were made with %d packets", n, r.Sent)
			}
		} else if n := after["xdp_frames"] - before["xdp_frames"]; r.Opened != 100 || n < int(r.Sent) || n > int(r.Sent)+3*100 {
			// A busy machine may open some of them again, and what is established
			// already is XDP's.
			t.Errorf("%d connections were opened; XDP forwarded %d of %d packets", r.Opened, n, r.Sent)
		}
	}
	if out, _ := s.ulvs("", "ipvsadm", "-Lnc"); !strings.Contains(out, "ESTABLISHED 198.18.0.0:1024") || !strings.Contains(out, "SYN_RECV    10.0.0.1:1039") {
		t.Error(out[:min(len(out), 2000)])
	}
}

// A signal ends a long measurement at once, and cleanly.
func TestBenchInterrupted(t *testing.T) {
	s := newLabSite(t, "--plane", "xdp")
	for name, start := range map[string]func() (*lab.Cmd, *bytes.Buffer){
		"generate": func() (*lab.Cmd, *bytes.Buffer) {
			return s.generate("--flows", "10", "--seconds", "600", "--rate", "1000")
		},
		"count": func() (*lab.Cmd, *bytes.Buffer) {
			return s.command("count", "--interface", "gen0", "--vip", "192.168.10.101:80", "--seconds", "600")
		},
	} {
		c, out := start()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		began := time.Now()
		_ = c.Process.Signal(unix.SIGINT)
		if err := c.Wait(); err != nil || !strings.Contains(out.String(), "\ninterrupted\n") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
}

// A host of its own counts; what is not the service's reaches its stack.
func TestBenchCount(t *testing.T) {
	s := newLabSite(t, "--plane", "afpacket")
	c, out := s.command("count", "--interface", "gen0", "--vip", "192.168.10.101:80", "--seconds", "3", "--json")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	frame := crafted(t, &site{t: t, client: s.generator, director: s.director}, "S", 1, 0)
	copy(frame, s.at.MAC)
	from := socketOn(t, s.generator, "gen0")
	time.Sleep(time.Second)
	const n = 50
	for i := range n {
		source(frame, 10<<24|uint32(i), 1000)
		if _, err := from.WriteTo(frame, &packet.Addr{HardwareAddr: s.at.MAC}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Returned != n || r.Sent != 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// Each CPU has flows of its own, which are together all that were asked for.
func TestBenchFlows(t *testing.T) {
	g := generation{
		counting: counting{interfaceName: "eth0", vip: "[2001:db8::1]:80", seconds: 1}, peer: "02:00:00:00:00:01",
		flows: 1001, perClient: 8, openRate: 1000, size: 60,
	}
	cpus := []string{"0"}
	if list, err := parseCPUs("0-1"); err == nil && len(list) == 2 {
		cpus = append(cpus, "0-1")
	}
	for _, g.cpus = range cpus {
		list, err := g.traffic()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[netip.AddrPort]bool{}
		for _, traffic := range list {
			for flow := range traffic.Flows {
				seen[traffic.ClientOf(flow)] = true
			}
		}
		if len(seen) != 1001 {
			t.Errorf("CPU %s: %d flows", g.cpus, len(seen))
		}
	}
}
