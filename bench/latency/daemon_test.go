package latency

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/control"
	"github.com/ulvs/ulvs/internal/lab"
)

// plane is how a daemon carries packets, and which of its counters says so.
type plane struct {
	name    string
	args    []string
	native  bool
	mode    string // what it says of itself, or ""
	counter string
}

var planes = []plane{
	{"afpacket", []string{"--plane", "afpacket"}, false, "", "tx_frames"},
	{"native", []string{"--plane", "xdp"}, true, "native, AF_XDP copy", "xdp_frames"},
	{"tcx", []string{"--plane", "tcx"}, false, "tcx (it was asked for), the only program there", "xdp_frames"},
}

// kinds are the services that each daemon has, as ipvsadm is told.
var kinds = []struct {
	name    string
	options string
	mark    bool
}{
	{"rr", "-s rr", false},
	{"wlc", "-s wlc", false},
	{"rr-p300", "-s rr -p 300", false},
	{"mark", "-s rr", true},
	{"mark-p300", "-s rr -p 300", true},
}

// daemon is "ulvs run" on a host.
type daemon struct {
	*site
	plane
	host    *lab.Host
	number  int
	control string
	cmd     *lab.Cmd
	log     *lab.Output
}

// daemon starts one that serves all kinds, as an operator does.
func (s *site) daemon(name string, p plane) *daemon {
	s.Helper()
	d := &daemon{site: s, plane: p, control: filepath.Join(s.dir, name+".sock")}
	d.host, d.number = s.director(name)
	if p.native {
		s.takesXDP(name)
	}
	d.configure()
	s.Cleanup(d.stop)
	s.must(d.start())
	if p.mode != "" {
		facts, err := d.client().Facts()
		s.must(err)
		if !strings.Contains(fmt.Sprint(facts), p.mode) {
			s.Fatalf("the program or its sockets are not where they are to be measured (%s): %v", p.mode, facts)
		}
	}
	return d
}

// configure writes the files of its services and mark rules.
func (d *daemon) configure() {
	d.Helper()
	var rules, marks strings.Builder
	marks.WriteString("*mangle\n")
	for i, kind := range kinds {
		vip := virtual(d.number, i)
		name, to := fmt.Sprintf("-t %v:%d", vip, port), fmt.Sprintf(":%d", port)
		if kind.mark {
			name, to = fmt.Sprint("-f ", i), ""
			fmt.Fprintf(&marks, "-A PREROUTING -d %v/32 -p tcp -m tcp --dport %d -j MARK --set-mark %d\n", vip, port, i)
		}
		fmt.Fprintf(&rules, "-A %s %s\n", name, kind.options)
		for _, a := range serverAddrs {
			fmt.Fprintf(&rules, "-a %s -r %v%s -g -w 1\n", name, a, to)
		}
	}
	marks.WriteString("COMMIT\n")
	s := d.site
	s.must(os.WriteFile(d.control+".rules", []byte(rules.String()), 0o600))
	s.must(os.WriteFile(d.control+".marks", []byte(marks.String()), 0o600))
}

// start starts it, or the next one in its place, and waits until it is ready.
func (d *daemon) start(more ...string) error {
	c := d.host.Command(context.Background(), d.binary, slices.Concat([]string{"run", "--interface", "eth0",
		"--control", d.control, "--connections", fmt.Sprint(d.connections), "--pin", filepath.Join(d.pins, d.host.Name()),
		"--rules", d.control + ".rules", "--marks", d.control + ".marks"}, d.args, more)...)
	if d.native {
		c.Env = append(os.Environ(), nativeInVeth+"=1")
	}
	log := new(lab.Output)
	c.Stderr = log
	if err := c.Start(); err != nil {
		return err
	}
	before := d.cmd
	d.cmd, d.log = c, log
	for began := time.Now(); !strings.Contains(log.String(), "msg=ready"); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			return fmt.Errorf("%s is not ready: %s", d.host.Name(), log)
		}
	}
	if before != nil {
		return before.Wait()
	}
	return nil
}

func (d *daemon) stop() {
	if d.cmd == nil {
		return
	}
	if d.Failed() {
		d.Logf("%s\n%s", d.ulvs("status --all"), d.log)
	}
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		d.Errorf("%s: %v\n%s", d.host.Name(), err, d.log)
	}
}

// ulvs runs a command of words without spaces.
func (d *daemon) ulvs(words string) string {
	d.Helper()
	ctx, end := context.WithTimeout(context.Background(), patience)
	defer end()
	out, err := d.command(ctx, d.binary, strings.Fields(words)...).CombinedOutput()
	if err != nil {
		d.Fatalf("ulvs %s: %v: %s", words, err, out)
	}
	return string(out)
}

func (d *daemon) command(ctx context.Context, name string, args ...string) *lab.Cmd {
	c := d.host.Command(ctx, name, args...)
	c.Env = append(os.Environ(), "ULVS_CONTROL="+d.control)
	return c
}

func (d *daemon) client() *control.Client { return control.Dial(d.control) }

// carried is how many packets the plane says that it has sent.
func (d *daemon) carried() uint64 {
	d.Helper()
	all, err := d.client().Counters()
	d.must(err)
	return all[d.counter]
}

// given is how many frames Go was given, to decide about.
func (d *daemon) given() uint64 {
	d.Helper()
	all, err := d.client().Counters()
	d.must(err)
	return all["rx_frames"] + all["af_xdp_rx_frames"]
}

// has is how many connections a service has, those among them that have just ended. (How many it
// has had is shown as of up to two seconds ago, as the kernel does.)
func (d *daemon) has(vip netip.Addr) (n int) {
	d.Helper()
	list, err := d.client().Services()
	d.must(err)
	for i, kind := range kinds {
		for _, s := range list {
			if virtual(d.number, i) == vip && (s.Addr == vip || kind.mark && s.Mark == uint32(i)) {
				for _, server := range s.Destinations {
					n += int(server.ActiveConns + server.InactConns)
				}
				return n
			}
		}
	}
	d.Fatalf("no service for %v in %v", vip, list)
	return 0
}
