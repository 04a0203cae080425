package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// run runs a command for its output and exit code.
func run(c *lab.Cmd) (output string, exit int, err error) {
	if c.Env == nil {
		c.Env = os.Environ()
	}
	c.Env = append(c.Env, "LC_ALL=C")
	out, err := c.CombinedOutput()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		return string(out), ended.ExitCode(), nil
	}
	return string(out), 0, err
}

// Ulvs is the daemon `ulvs run`.
type Ulvs struct {
	Binary string // path of the program
	Plane  string // "" is afpacket
	// Bridged is another ipvsadm, which speaks to the daemon by ulvs bridge, or "".
	Bridged string
	// Args are more arguments of `ulvs run`.
	Args []string
	// Watch, if not nil, is told a daemon's control socket. What it returns is called before commands
	// that add services, take them away or change them, and before the daemon's end.
	Watch func(socket string) (look func())
}

// XDP is the XDP plane with AF_PACKET behind it, and AFXDP that with AF_XDP sockets, as if it were a plane of its
// own. The programs are in the driver.
const (
	XDP   = "xdp"
	AFXDP = "af_xdp"
)

// inDriver reports whether programs are in the driver of the director's interface.
func (u Ulvs) inDriver() bool { return u.Plane == XDP || u.Plane == AFXDP }

// TCX is the XDP plane's program at the ingress.
const TCX = "tcx"

// ready bounds the start of the daemon, and its end.
const ready = 15 * time.Second

// Start implements Subject. The daemon is ready when its socket is there.
func (u Ulvs) Start(ctx context.Context, host *lab.Host) (Director, error) {
	dir, err := os.MkdirTemp("", "ulvs")
	if err != nil {
		return nil, err
	}
	d := &ulvsDirector{
		host: host, binary: u.Binary, bridged: u.Bridged, dir: dir, control: filepath.Join(dir, "control"),
		ended: make(chan struct{}), look: func() {},
	}
	if u.Watch != nil {
		d.look = u.Watch(d.control)
	}
	plane := u.Plane
	if plane == "" {
		plane = "afpacket"
	}
	args := []string{"run", "--interface", "eth0", "--plane", plane, "--pin", "none", "--control", d.control}
	if err := os.Mkdir(filepath.Join(dir, "proc"), 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	args = append(args, "--procfs", filepath.Join(dir, "proc"))
	switch plane {
	case AFXDP:
		args = append(args, "--plane", "xdp", "--af-xdp", "on")
	case XDP:
		args = append(args, "--af-xdp", "off")
	}
	args = append(args, u.Args...)
	d.daemon = host.Command(ctx, u.Binary, args...)
	d.daemon.Stdout, d.daemon.Stderr = &d.log, &d.log
	if err := d.daemon.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() {
		d.err = d.daemon.Wait()
		close(d.ended)
	}()
	if err := d.await(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := d.addBarrier(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// addBarrier adds the service of barriers.
func (d *ulvsDirector) addBarrier(ctx context.Context) error {
	for _, args := range []string{"-A -u %v -s rr -o", "-a -u %v -r 192.168.10.203 -g"} {
		words := append([]string{"ipvsadm"}, strings.Fields(fmt.Sprintf(args, BarrierService))...)
		output, exit, err := d.run(ctx, words)
		// A socket has its name a moment before it can be connected to.
		for until := time.Now().Add(ready); exit != 0 && strings.Contains(output, "no ulvs daemon answers") && time.Now().Before(until); {
			time.Sleep(5 * time.Millisecond)
			output, exit, err = d.run(ctx, words)
		}
		if err != nil || exit != 0 {
			return fmt.Errorf("%s: exit %d, error %v: %s", strings.Join(words, " "), exit, err, output)
		}
	}
	return nil
}

// BarrierService says that barriers have to go through BarrierService.
func (d *ulvsDirector) BarrierService() bool { return true }

// warning begins what ulvs says beyond what ipvsadm does.
const warning = "ulvs: warning: "

// withoutBarrier cuts the service of barriers out of a listing, and warnings.
func withoutBarrier(output string) string {
	var b strings.Builder
	name, skip := BarrierService.String(), false
	hex := fmt.Sprintf("%X:%04X", BarrierService.Addr().AsSlice(), BarrierService.Port())
	series := fmt.Sprintf(`local_address="%v"`, BarrierService.Addr())
	for line := range strings.Lines(output) {
		theirs := strings.Contains(line, name) || strings.Contains(line, hex) || strings.Contains(line, series)
		skip = theirs || skip && strings.HasPrefix(line, "  ->")
		if !skip && !strings.HasPrefix(line, warning) {
			b.WriteString(line)
		}
	}
	return b.String()
}

type ulvsDirector struct {
	host    *lab.Host
	binary  string
	bridged string // Ulvs.Bridged
	dir     string
	control string
	daemon  *lab.Cmd
	log     lab.Output
	look    func()        // of Ulvs.Watch
	ended   chan struct{} // closed after err was set
	err     error
}

func (d *ulvsDirector) await(ctx context.Context) error {
	timeout := time.After(ready)
	for {
		if _, err := os.Stat(d.control); err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return errors.New("ulvs ended before its socket was there")
		case <-timeout:
			return fmt.Errorf("ulvs has made no socket %s within %v", d.control, ready)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// hostSysctl matches those that the host has by itself.
var hostSysctl = regexp.MustCompile(`^net\.ipv[46]\.icmp[_.]`)

func (d *ulvsDirector) Command(ctx context.Context, words []string) (string, int, error) {
	if words[0] == "sysctl" && len(words) == 2 && hostSysctl.MatchString(words[1]) {
		if name, value, ok := strings.Cut(words[1], "="); ok {
			return "", 0, d.host.Sysctl(name, value)
		}
	}
	if words[0] == "ipvsadm" && slices.ContainsFunc(words, changesServices) {
		d.look()
	}
	output, exit, err := d.run(ctx, words)
	if words[0] == "cat" || words[0] == Exporter {
		n, failed := d.barrierCounted(ctx)
		err = errors.Join(err, failed)
		output = withoutBarriers(inSeconds(output, 250), n)
	}
	if err == nil && words[0] == "ipvsadm" && slices.ContainsFunc(words, func(w string) bool { return w == "-C" || w == "--clear" }) {
		d.look() // the service of barriers is gone
		err = d.addBarrier(ctx)
	}
	return withoutBarrier(output), exit, err
}

// changesServices tells commands after which a service may be gone, or another one.
func changesServices(word string) bool {
	return slices.Contains([]string{"-A", "-D", "-C", "-E", "-R", "--add-service", "--delete-service", "--clear",
		"--edit-service", "--restore"}, word)
}

func (d *ulvsDirector) run(ctx context.Context, words []string) (string, int, error) {
	select {
	case <-d.ended:
		return "", 0, errors.New("the daemon has ended")
	default:
	}
	bridge := []string{"bridge", "exec", "--proc", "--"}
	switch {
	case words[0] == Exporter:
		return exported(ctx, d.host, filepath.Join(d.dir, "proc"))
	case words[0] == "cat": // a file that the bridge alone has
		words = append(bridge, words...)
	case d.bridged != "" && words[0] == "ipvsadm":
		words = append(append(bridge, d.bridged), words[1:]...)
	}
	c := d.host.Command(ctx, d.binary, words...)
	c.Env = append(os.Environ(), "ULVS_CONTROL="+d.control)
	return run(c)
}

// Close asks the daemon to end, and insists after a while. The error carries
// the daemon's log when it did not end well.
func (d *ulvsDirector) Close() error {
	defer os.RemoveAll(d.dir)
	var late error
	d.look()
	// It may have ended by itself; ended then tells.
	_ = d.daemon.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(ready):
		late = fmt.Errorf("it did not end within %v of SIGTERM", ready)
		_ = d.daemon.Process.Kill()
		<-d.ended
	}
	if d.err == nil && late == nil {
		return nil
	}
	return fmt.Errorf("ulvs run: %w; it said:\n%s", errors.Join(d.err, late), strings.TrimRight(d.log.String(), "\n"))
}
