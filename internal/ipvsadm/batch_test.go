package ipvsadm

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

// A restore of what is there is one batch up to each line that shows something, goes on
// after a refused line, and says of each line what it would say alone, in order.
func TestRestoreBatches(t *testing.T) {
	lines := []string{
		"-A -t 10.0.0.1:80 -s rr",
		"-a -t 10.0.0.1:80 -r 10.0.0.2",
		"-A -t 10.0.0.1:80 -s wrr",
		"-a -t 10.0.0.9:80 -r 10.0.0.2",
		"",
		"-E -t 10.0.0.1:80 -s nosuch",
		"-L -n -t 10.0.0.1:80",
		"-D -t 10.0.0.1:80",
		"-D -t 10.0.0.1:80",
	}
	stdoutAlone, stderrAlone := "", ""
	alone := newFake()
	var last int
	for _, line := range lines {
		if line == "" {
			continue
		}
		out, err, exit := runCommand(alone, "", append([]string{"ipvsadm"}, strings.Fields(line)...))
		stdoutAlone, stderrAlone, last = stdoutAlone+out, stderrAlone+err, exit
	}
	f := newFake()
	stdout, stderr, exit := runCommand(f, strings.Join(lines, "\n")+"\n", []string{"ipvsadm", "-R"})
	if stdout != stdoutAlone || stderr != stderrAlone || exit != last || exit != 255 {
		t.Errorf("exit %d, %q, %q; one by one: %d, %q, %q", exit, stdout, stderr, last, stdoutAlone, stderrAlone)
	}
	if !slices.Equal(f.batches, []int{5, 2}) {
		t.Errorf("batches of %d lines", f.batches)
	}
	if !strings.Contains(stderr, "Service already exists\nService not defined\n") {
		t.Errorf("%q", stderr)
	}
	// A line that makes no sense ends everything, after those before it.
	f = newFake()
	_, stderr, exit = runCommand(f, "-A -t 10.0.0.1:80\n-A -t 10.0.0.2:80\n-A -t 10.0.0.1:80 -r 10.0.0.9\n-A -t 10.0.0.3:80\n", []string{"ipvsadm", "-R"})
	if len(f.services) != 2 || exit == 0 || stderr == "" {
		t.Errorf("%d services, exit %d, %q", len(f.services), exit, stderr)
	}
	// The last line's result is the whole's, as the original has it.
	f = newFake()
	if _, _, exit = runCommand(f, "-D -t 10.0.0.1:80\n-A -t 10.0.0.1:80\n", []string{"ipvsadm", "-R"}); exit != 0 {
		t.Errorf("exit %d", exit)
	}
}

// told is a fake that says when a service was added.
type told struct {
	*fakeControl
	added chan string
}

func (f *told) AddService(s ulvs.Service) error {
	err := f.fakeControl.AddService(s)
	f.added <- s.ServiceKey.String()
	return err
}

func (f *told) Batch(changes []ulvs.Change, answer func(int, error) bool) error {
	f.batches = append(f.batches, len(changes))
	for i := range changes {
		if !answer(i, changes[i].Apply(f)) {
			break
		}
	}
	return nil
}

// A line that is typed acts when it is there, also while the next is being typed; lines
// that come together are one batch.
func TestRestoreTyped(t *testing.T) {
	f := &told{newFake(), make(chan string, 100)}
	pr, pw := newPipe(t)
	done := make(chan int, 1)
	var out bytes.Buffer
	go func() {
		c := Command{Control: f, Stdin: pr, Stdout: &out, Stderr: &out, Lookup: testNames("testdata/hosts")}
		done <- c.Run([]string{"ipvsadm", "-R"})
	}()
	acts := func(what string, want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-f.added:
				if got != w {
					t.Fatalf("%s: %s was added, not %s", what, got, w)
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("%s: %s is not added", what, w)
			}
		}
	}
	fmt.Fprintln(pw, "-A -t 10.0.0.1:80")
	acts("a line", "-t 10.0.0.1:80")
	fmt.Fprint(pw, "-A -t 10.0.0.2:80\n-A -t 10.0.")
	acts("a line, and half of another", "-t 10.0.0.2:80")
	fmt.Fprint(pw, "0.3:80\n-A -t 10.0.0.4:80\n-A -t 10.0.0.5:80\n")
	acts("the rest, and more", "-t 10.0.0.3:80", "-t 10.0.0.4:80", "-t 10.0.0.5:80")
	pw.Close()
	if code := <-done; code != 0 || out.Len() > 0 {
		t.Errorf("exit %d, %q", code, out.String())
	}
	if !slices.Equal(f.batches, []int{3}) {
		t.Errorf("batches of %d lines", f.batches)
	}
}
