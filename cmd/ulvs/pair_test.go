package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/conformance"
	"github.com/ulvs/ulvs/internal/lab"
)

var (
	pairs      = flag.Bool("pair", false, "TestPair: two directors with keepalived, on each plane, and beside kernel IPVS in user-mode Linux")
	pairInside = flag.Bool("pair-inside", false, "TestPair is in user-mode Linux, and the pair is kernel IPVS")
)

const (
	pairVIP = "192.168.10.101"
	// pairEach is how often a client comes, and pairPatience for how long he waits: a SYN that is
	// lost is sent again within it.
	pairEach     = 10 * time.Millisecond
	pairPatience = 1200 * time.Millisecond
	pairAdvert   = time.Second
	// pairLimit is for how long clients may fail.
	pairLimit = 3*pairAdvert + 1200*time.Millisecond
)

// pair is two directors with keepalived, of which one has the virtual address.
type pair struct {
	t         *testing.T
	lab       *lab.Lab
	plane     string // "": kernel IPVS
	dir       string
	client    *lab.Host
	directors [2]*pairMember
	visits    pairVisits
	answers   pairAnswers
	dead      bool // the first one's host, which keeps the address
}

// pairMember is one of the two directors.
type pairMember struct {
	*lab.Host
	dir      string
	priority int
	programs []*lab.Cmd
	log      *said
}

// A pair of keepalived and ulvs fails over as one of keepalived and kernel IPVS does: clients who
// come anew are served again in time, and no two directors answer for the address.
func TestPair(t *testing.T) {
	if !*pairs {
		t.Skip("make pair has the machine to itself")
	}
	if _, err := exec.LookPath("keepalived"); err != nil {
		t.Skip(err)
	}
	if *pairInside {
		newPair(t, "").run()
		return
	}
	for _, plane := range []string{"afpacket", *fast} {
		t.Run(plane, func(t *testing.T) { newPair(t, plane).run() })
	}
	t.Run("kernel", func(t *testing.T) {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		here, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		out := filepath.Join(t.TempDir(), "out")
		console, err := conformance.Guest{Module: "../.."}.Run(ctx, "sh", "-c",
			fmt.Sprintf("ip link set lo up; cd %s; exec %s -test.run '^TestPair$' -test.v -pair -pair-inside >%s 2>&1", here, exe, out))
		if errors.Is(err, conformance.ErrNoGuest) {
			t.Skip(err)
		}
		text, failed := os.ReadFile(out)
		if err != nil || failed != nil {
			t.Errorf("%v, %v: %s", err, failed, console)
		}
		t.Logf("%s", text) // for comparison: its timers run late on a busy host
	})
}

func newPair(t *testing.T, plane string) *pair {
	t.Helper()
	p := &pair{t: t, plane: plane, dir: t.TempDir()}
	var err error
	p.lab, err = lab.New(lab.Config{})
	p.must(err)
	t.Cleanup(func() { p.lab.Close() })
	host := func(name, addr string) *lab.Host {
		h, err := p.lab.Add(lab.HostConfig{Name: name, Addrs: prefixes(addr + "/24")})
		p.must(err)
		return h
	}
	p.client = host("client", "192.168.10.1")
	for i := range 2 {
		h := host(fmt.Sprint("server", i), fmt.Sprint("192.168.10.", 200+i))
		answers(t, h, netip.MustParseAddr(pairVIP))
		echoAt(t, h, "tcp", fmt.Sprintf("192.168.10.%d:80", 200+i)) // what keepalived looks at
		d := &pairMember{Host: host(fmt.Sprint("director", i), fmt.Sprint("192.168.10.", 100+10*i)), priority: 150 - 50*i,
			dir: filepath.Join(p.dir, fmt.Sprint(i))}
		p.must(os.Mkdir(d.dir, 0o755))
		p.directors[i] = d
	}
	return p
}

func (p *pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// run has a director fail in each way, and looks what clients felt.
func (p *pair) run() {
	first, second := p.directors[0], p.directors[1]
	p.begin(first)
	p.begin(second)
	p.served()
	p.listen()
	stop := p.come()
	time.Sleep(3 * time.Second)
	nl := first.Netlink()
	link, err := nl.LinkByName("eth0")
	p.must(err)
	for _, x := range []struct {
		what   string
		happen func()
		to     *pairMember
	}{
		{"the master's interface goes down", func() { p.must(nl.LinkSetDown(link)) }, second},
		{"it comes back, and preempts", func() { p.must(nl.LinkSetUp(link)) }, first},
		{"the master ends", func() { p.end(first) }, second},
		{"it is started, and preempts", func() { p.begin(first) }, first},
		{"the master's host dies", func() { p.dead = true; p.kill(first); p.must(nl.LinkSetDown(link)) }, second},
	} {
		p.visits.mark()
		x.happen()
		p.awaitMaster(x.to)
		time.Sleep(pairPatience + 2*time.Second)
		p.judge(x.what, p.visits.since())
	}
	stop()
	p.t.Logf("ARP: %s", p.answers.String())
	if n := p.answers.mixed(); n > 0 {
		p.t.Errorf("answers of two directors are mixed %d times: %s", n, p.answers.String())
	}
}

// begin starts the programs of a director.
func (p *pair) begin(d *pairMember) {
	p.t.Helper()
	run := func(words ...string) *lab.Cmd {
		c := d.Command(context.Background(), words[0], words[1:]...)
		d.log = new(said)
		c.Stdout, c.Stderr = d.log, d.log
		p.must(c.Start())
		d.programs = append(d.programs, c)
		p.t.Cleanup(func() { p.kill(d) })
		return c
	}
	conf := filepath.Join(d.dir, "keepalived.conf")
	p.must(os.WriteFile(conf, []byte(d.conf()), 0o600))
	keepalived := []string{"keepalived", "--dont-fork", "--log-console", "--no-syslog", "-f", conf,
		"-p", filepath.Join(d.dir, "pid"), "-r", filepath.Join(d.dir, "vrrp"), "-c", filepath.Join(d.dir, "checkers")}
	if p.plane != "" {
		socket := filepath.Join(d.dir, "ulvs.sock")
		run("/proc/self/exe", "run", "--control", socket, "--interface", "eth0", "--plane", p.plane, "--connections", "100000",
			"--pin", noPins, "--while-address", "auto")
		d.log.await(p.t, "msg=ready")
		keepalived = append([]string{"/proc/self/exe", "bridge", "exec", "--control", socket, "--"}, keepalived...)
	}
	run(keepalived...)
}

// conf is what keepalived is configured with.
func (d *pairMember) conf() string {
	return fmt.Sprintf(`global_defs {
	router_id %s
}
vrrp_instance pair {
	state BACKUP
	interface eth0
	virtual_router_id 51
	priority %d
	advert_int %d
	virtual_ipaddress {
		%s/32 dev eth0
	}
}
virtual_server %s 80 {
	delay_loop 1
	lb_algo rr
	lb_kind DR
	protocol TCP
	real_server 192.168.10.200 80 {
		TCP_CHECK {
			connect_timeout 1
		}
	}
	real_server 192.168.10.201 80 {
		TCP_CHECK {
			connect_timeout 1
		}
	}
}
`, d.Name(), d.priority, pairAdvert/time.Second, pairVIP, pairVIP)
}

// end ends a director's programs, the last one first.
func (p *pair) end(d *pairMember) {
	for _, c := range slices.Backward(d.programs) {
		_ = c.Process.Signal(unix.SIGTERM)
		_ = c.Wait()
	}
	d.programs = nil
}

// kill does so without a word.
func (p *pair) kill(d *pairMember) {
	for _, name := range []string{"pid", "vrrp", "checkers"} {
		text, _ := os.ReadFile(filepath.Join(d.dir, name))
		var pid int
		if n, _ := fmt.Sscan(string(text), &pid); n == 1 && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = os.Remove(filepath.Join(d.dir, name))
	}
	for _, c := range d.programs {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	d.programs = nil
}

// awaitMaster waits until a director has the address, and the other one has not.
func (p *pair) awaitMaster(d *pairMember) {
	p.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if p.has(d) && (d == p.directors[0] || !p.has(p.directors[0]) || p.dead) && (d == p.directors[1] || !p.has(p.directors[1])) {
			return
		}
		if time.Since(began) > patience {
			p.t.Fatalf("%s is no master:\n%s", d.Name(), d.log)
		}
	}
}

func (p *pair) has(d *pairMember) bool {
	p.t.Helper()
	has := false
	p.must(d.Do(func() error {
		list, err := net.InterfaceAddrs()
		has = slices.ContainsFunc(list, func(a net.Addr) bool { return strings.HasPrefix(a.String(), pairVIP+"/") })
		return err
	}))
	return has
}

// served waits until clients are.
func (p *pair) served() {
	p.t.Helper()
	p.awaitMaster(p.directors[0])
	for began := time.Now(); p.visit() != nil; time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > patience {
			p.t.Fatalf("nobody is served:\n%s\n%s", p.directors[0].log, p.directors[1].log)
		}
	}
}
