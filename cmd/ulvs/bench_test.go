package main

import (
	"context"
	"encoding/json"
	"fmt"
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
	// The kernel's table of neighbours is one for all namespaces, and others may fill it.
	must(far.Space.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: far.Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(192, 168, 10, 200), HardwareAddr: near.MAC,
	}))
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
func (s *labSite) command(args ...string) (*lab.Cmd, *said) {
	out := new(said)
	c := s.generator.Command(context.Background(), "/proc/self/exe", append([]string{"bench"}, args...)...)
	c.Stdout, c.Stderr = out, out
	return c, out
}

func (s *labSite) generate(args ...string) (*lab.Cmd, *said) {
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

// A generator's packets go through a director and back, all of them, and it says so. On a
// machine that is busy with something else some are lost on the wire: then it is tried
// again.
func TestBench(t *testing.T) {
	s := newLabSite(t, "--plane", *fast)
	number, space, more := regexp.MustCompile(`[0-9]+(\.[0-9]+)*`), regexp.MustCompile(` +`), regexp.MustCompile(`(, N: N)+`)
	seconds := regexp.MustCompile(`(\n N N N)+`)
	shape := func(text string) string {
		text = more.ReplaceAllString(space.ReplaceAllString(number.ReplaceAllString(text, "N"), " "), "")
		return seconds.ReplaceAllString(text, "\n N N N")
	}
	var said strings.Builder
	const tries = 5
	say := func(args ...string) {
		var text string
		for range tries {
			if text = s.run(args...); strings.Contains(text, "by receiving CPU") {
				break // else nothing came back
			}
		}
		said.WriteString("$ ulvs bench generate … " + strings.Join(args, " ") + "\n" + shape(text))
	}
	say("--flows", "100", "--rate", "2000", "--seconds", "2")
	say("--new", "--rate", "2000", "--seconds", "1")
	golden(t, "bench.golden", said.String())

	var client string
	for i, fresh := range []bool{false, true} {
		for try := 1; ; try++ {
			client = fmt.Sprintf("10.%d.0.1", 2*try+i) // so that its connections are new
			wrong := s.measured(fresh, client)
			if len(wrong) == 0 {
				break
			}
			t.Logf("new connections %v, try %d: %s", fresh, try, strings.Join(wrong, "; "))
			if try == tries {
				t.Fatalf("it has failed %d times", tries)
			}
		}
	}
	if out, _ := s.ulvs("", "ipvsadm", "-Lnc"); !strings.Contains(out, "ESTABLISHED 198.18.0.0:1024") || !strings.Contains(out, "SYN_RECV    "+client+":1123") {
		t.Error(out[:min(len(out), 2000)])
	}
}

// measured is what is wrong with a measurement of two seconds.
func (s *labSite) measured(fresh bool, client string) (wrong []string) {
	s.t.Helper()
	args, rate := []string{"--flows", "100", "--rate", "5000", "--size", "200", "--per-client", "4"}, 5000
	if fresh {
		args, rate = []string{"--new", "--rate", "1000", "--per-client", "1024"}, 1000
	}
	before := s.status()
	var r report
	out := s.run(append(args, "--seconds", "2", "--client", client, "--json")...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	after := s.status()
	is := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	is(r.New == fresh && !r.Interrupted && len(r.Seconds) > 0, "%s", out)
	is(r.Returned == r.Sent && r.Lost == 0, "%d packets of %d came back, %d were lost", r.Returned, r.Sent, r.Lost)
	// How much less it is says how busy the machine is.
	is(r.Sent > 0 && float64(r.Sent) < 1.1*float64(rate)*r.Took, "%d packets were sent in %v seconds", r.Sent, r.Took)
	var seconds uint64
	for _, x := range r.Seconds {
		seconds += x.Sent
	}
	is(seconds <= r.Sent && seconds >= r.Sent*8/10, "%d of %d packets are in its seconds", seconds, r.Sent)
	if fresh {
		n := after["connections"] - before["connections"]
		is(n == int(r.Sent), "%d connections were made with %d packets", n, r.Sent)
	} else {
		// A busy machine may open some of them again, and what is established already
		// is XDP's.
		n := after["xdp_frames"] - before["xdp_frames"]
		is(r.Opened == 100 && n >= int(r.Sent) && n <= int(r.Sent)+3*100, "%d connections were opened; XDP forwarded %d of %d packets", r.Opened, n, r.Sent)
	}
	return wrong
}

// A signal ends a long measurement long before its time, and cleanly.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	s := newLabSite(t, "--plane", *fast)
	for name, start := range map[string]func() (*lab.Cmd, *said){
		"generate": func() (*lab.Cmd, *said) {
			return s.generate("--flows", "10", "--seconds", "86400", "--rate", "1000")
		},
		"count": func() (*lab.Cmd, *said) {
			return s.command("count", "--interface", "gen0", "--vip", "192.168.10.101:80", "--seconds", "86400")
		},
	} {
		c, out := start()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		out.await(t, firstSecond)
		_ = c.Process.Signal(unix.SIGINT)
		if err := c.Wait(); err != nil || !strings.Contains(out.String(), "\ninterrupted\n") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// firstSecond begins what a measurement says of its first second.
const firstSecond = "\n       1 "

// A host of its own counts; what is not the service's reaches its stack.
func TestBenchCount(t *testing.T) {
	t.Parallel()
	s := newLabSite(t, "--plane", "afpacket")
	c, out := s.command("count", "--interface", "gen0", "--vip", "192.168.10.101:80", "--seconds", "86400")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	frame := crafted(t, &site{t: t, client: s.generator, director: s.director}, "S", 1, 0)
	copy(frame, s.at.MAC)
	from := socketOn(t, s.generator, "gen0")
	out.await(t, firstSecond)
	const n = 50
	for i := range n {
		source(frame, 10<<24|uint32(i), 1000)
		if _, err := from.WriteTo(frame, &packet.Addr{HardwareAddr: s.at.MAC}); err != nil {
			t.Fatal(err)
		}
	}
	for begin := time.Now(); counted(out.String()) < n; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("after %v: %s", patience, out)
		}
	}
	_ = c.Process.Signal(unix.SIGINT)
	if err := c.Wait(); err != nil || !strings.Contains(out.String(), fmt.Sprintf("\n     all %12d\n", n)) {
		t.Errorf("%v: %s", err, out)
	}
}

// counted is how many packets "ulvs bench count" has counted, by what it has said of each
// second.
func counted(text string) (n int) {
	for line := range strings.Lines(text) {
		var second, count int
		if _, err := fmt.Sscanf(line, "%d %d\n", &second, &count); err == nil {
			n += count
		}
	}
	return n
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
