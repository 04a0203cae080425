package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/ulvs/ulvs/internal/lab"
)

// Kernel is the running kernel's own IPVS. A network namespace has an IPVS of
// its own, so there is nothing to start.
type Kernel struct {
	// Quick starts one ipvsadm for many commands, and writes sysctls without
	// sysctl(8): in user-mode Linux, to start a program takes far longer than
	// all else.
	Quick bool
}

// Start implements Subject.
func (k Kernel) Start(_ context.Context, host *lab.Host) (Director, error) {
	if k.Quick {
		return &quickKernel{kernelDirector: kernelDirector{host}}, nil
	}
	return kernelDirector{host}, nil
}

type kernelDirector struct{ host *lab.Host }

// connTable guards the kernel's connection table, which all namespaces share.
// Who lists it reads it in pieces, by counting entries of every namespace: a
// connection that is made elsewhere meanwhile shows another one twice
// (ip_vs_conn_array), and one that ends hides another.
var connTable sync.RWMutex

// steady lists connections while no packets are sent, and again if one is in
// the list twice all the same.
func steady(list func() (string, int, error)) (output string, exit int, err error) {
	connTable.Lock()
	defer connTable.Unlock()
	for range 5 {
		output, exit, err = list()
		seen := make(map[string]bool)
		twice := false
		for line := range strings.Lines(timeless.ReplaceAllString(output, "")) {
			twice = twice || seen[line]
			seen[line] = true
		}
		if !twice {
			break
		}
	}
	return output, exit, err
}

// timeless matches the time to expiry in a listing.
var timeless = regexp.MustCompile(`\b\d+:\d\d\b`)

// Sending is called before packets are sent, and what it returns when they
// have arrived.
func (d kernelDirector) Sending() (done func()) {
	connTable.RLock()
	return connTable.RUnlock
}

func (d kernelDirector) Command(ctx context.Context, words []string) (string, int, error) {
	name, args := words[0], words[1:]
	switch name {
	case "iptables", "ip6tables":
		name += "-legacy" // user-mode Linux has no nf_tables
	case "sysctl":
		args = append([]string{"-w"}, args...)
	}
	if name == Exporter {
		return exported(ctx, d.host, "/proc")
	}
	list := func() (string, int, error) {
		output, exit, err := run(d.host.Command(ctx, name, args...))
		if name == "cat" {
			output = inSeconds(output, 100) // user-mode Linux has HZ=100
		}
		return output, exit, err
	}
	if slices.ContainsFunc(args, isConnListing) {
		return steady(list)
	}
	return list()
}

func (d kernelDirector) Close() error { return nil }

// quickKernel gives its commands to one `ipvsadm -R`, which carries out any
// command that it reads, until one ends it.
type quickKernel struct {
	kernelDirector
	program *lab.Cmd
	in      io.WriteCloser
	out     *os.File
}

// The end of a command's output is marked by that of another, which prints one
// line.
const (
	mark       = "-L --timeout\n"
	markPrefix = "Timeout (tcp tcpfin udp): "
)

func (d *quickKernel) Command(ctx context.Context, words []string) (string, int, error) {
	switch {
	case words[0] == "sysctl" && len(words) == 2:
		if name, value, ok := strings.Cut(words[1], "="); ok && d.host.Sysctl(name, value) == nil {
			return "", 0, nil
		}
	case words[0] == "ipvsadm" && len(words) > 1 && !slices.Contains(words, "--timeout") && !slices.Contains(words, "-R"):
		list := func() (string, int, error) { return d.tell(ctx, words[1:]) }
		if slices.ContainsFunc(words, isConnListing) {
			return steady(list)
		}
		return list()
	}
	return d.kernelDirector.Command(ctx, words)
}

func (d *quickKernel) tell(ctx context.Context, args []string) (output string, exit int, err error) {
	if d.program == nil {
		if err := d.start(ctx); err != nil {
			return "", 0, err
		}
	}
	if _, err := io.WriteString(d.in, strings.Join(args, " ")+"\n"+mark); err != nil {
		return "", 0, err
	}
	var got []byte
	buf := make([]byte, 1<<14)
	for {
		n, err := d.out.Read(buf)
		got = append(got, buf[:n]...)
		at := bytes.LastIndex(got, []byte(markPrefix))
		if at >= 0 && bytes.HasSuffix(got, []byte("\n")) {
			output = string(got[:at])
			// What is refused is said, and nothing else is but listings.
			if output != "" && !slices.ContainsFunc(args, isListing) {
				exit = 255
			}
			return output, exit, nil
		}
		if err != nil { // it ended, as it does when a command makes no sense
			return string(got), d.end(), nil
		}
	}
}

func isConnListing(word string) bool {
	return word == "-Lnc" || word == "-Lc" || word == "-c" || word == "--connection" || strings.HasPrefix(word, "/proc/net/ip_vs_conn")
}

func isListing(word string) bool {
	return strings.HasPrefix(word, "-L") || strings.HasPrefix(word, "-l") || strings.HasPrefix(word, "-S") ||
		word == "--list" || word == "--save"
}

func (d *quickKernel) start(ctx context.Context) (err error) {
	// Without stdbuf, listings would stay in the program until it ends.
	d.program = d.host.Command(ctx, "stdbuf", "-oL", "ipvsadm", "-R")
	d.program.Env = append(os.Environ(), "LC_ALL=C")
	if d.in, err = d.program.StdinPipe(); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	d.out, d.program.Stdout, d.program.Stderr = r, w, w
	if err := d.program.Start(); err != nil {
		r.Close()
		d.program = nil
		return fmt.Errorf("start ipvsadm: %w", err)
	}
	return nil
}

// end waits for the program's end and returns its status.
func (d *quickKernel) end() int {
	d.in.Close()
	_ = d.program.Wait() // the status tells
	d.out.Close()
	exit := d.program.ProcessState.ExitCode()
	d.program = nil
	return exit
}

func (d *quickKernel) Close() error {
	if d.program != nil {
		d.end()
	}
	return nil
}
