package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// refused checks that the name cannot be taken, and what is said then.
func refused(t *testing.T, path string, parts ...string) {
	t.Helper()
	name, err := control.Reserve(path)
	if err == nil {
		name.Close()
		t.Fatalf("%s was given twice, or away", path)
	}
	for _, part := range append(parts, path, "--control") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	st, err := os.Lstat(path)
	must(t, err)
	return st.Mode()
}

// A second daemon is refused, also while the first is only starting, and does
// the first no harm.
func TestSecondDaemon(t *testing.T) {
	client, path, end := serve(t, newBed(t))
	must(t, client.AddService(ulvs.Service{ServiceKey: tcp(web)}))
	for range 2 {
		refused(t, path, "another ulvs daemon has it", "stop that one")
	}
	if list, err := client.Services(); err != nil || len(list) != 1 {
		t.Errorf("the first one: %d services, %v", len(list), err)
	}
	if list, err := control.Dial(path).Services(); err != nil || len(list) != 1 {
		t.Errorf("the first one, asked anew: %d services, %v", len(list), err)
	}
	end()
	unreachable(t, path)

	// The name is free now; who has it need not listen yet.
	name, err := control.Reserve(path)
	must(t, err)
	refused(t, path, "another ulvs daemon has it")
	must(t, name.Close())
	unreachable(t, path)
	name, err = control.Reserve(path)
	must(t, err)
	must(t, name.Close())
}

// What a daemon that was killed left is replaced, and so are its clients'
// connections.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ulvs.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	if mode(t, path)&fs.ModeSocket == 0 {
		t.Fatal("there is no stale socket")
	}
	unreachable(t, path)

	client := control.Dial(path)
	for range 2 { // the second time with a client that knew the first daemon
		name, err := control.Reserve(path)
		must(t, err)
		l, err := name.Listen()
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- control.Serve(ctx, l, newBed(t)) }()
		if _, _, err := client.Version(); err != nil {
			t.Error(err)
		}
		cancel()
		must(t, <-served)
		must(t, name.Close())
	}
}

// Nothing that is no socket is touched.
func TestNoSocketInPlace(t *testing.T) {
	dir := t.TempDir()
	file, folder, link := filepath.Join(dir, "file"), filepath.Join(dir, "folder"), filepath.Join(dir, "link")
	must(t, os.WriteFile(file, []byte("precious"), 0o644))
	must(t, os.Mkdir(folder, 0o755))
	must(t, os.Symlink(file, link))
	for _, path := range []string{file, folder, link} {
		refused(t, path, "no socket")
		refused(t, path, "no socket") // and not: another daemon has it
		unreachable(t, path)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if mode(t, link)&fs.ModeSymlink == 0 || !mode(t, folder).IsDir() {
		t.Error("the link or the folder is gone")
	}
	refused(t, filepath.Join(dir, "no", "such", "folder"), "no such file or directory")
	must(t, os.Remove(file))
	name, err := control.Reserve(file)
	must(t, err)
	must(t, name.Close())
}

// Only the owner may speak to the daemon, whatever the umask.
func TestMode(t *testing.T) {
	for _, mask := range []int{0, 0o077} {
		old := syscall.Umask(mask)
		_, path, end := serve(t, newBed(t))
		for file, want := range map[string]fs.FileMode{path: fs.ModeSocket | 0o600, path + ".lock": 0o600} {
			if got := mode(t, file); got != want {
				t.Errorf("umask %03o: %s has mode %v", mask, filepath.Base(file), got)
			}
		}
		if after := syscall.Umask(old); after != mask {
			t.Errorf("the umask is %03o now, was %03o", after, mask)
		}
		end()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket outlives its daemon: %v", err)
		}
	}
}

// visit is the test binary as another user's client: it says what it was told.
func visit(path string) int {
	_, _, err := control.Dial(path).Version()
	fmt.Print(err)
	if errors.Is(err, ulvs.ErrPermission) && !errors.Is(err, ulvs.ErrUnreachable) {
		return 3
	}
	return 0
}

func TestPermission(t *testing.T) {
	_, path, _ := serve(t, newBed(t))
	if os.Getuid() != 0 {
		// One's own socket can be made somebody else's by its mode.
		must(t, os.Chmod(path, 0))
		_, _, err := control.Dial(path).Version()
		if !errors.Is(err, ulvs.ErrPermission) || !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
		return
	}
	// Another user has to reach the folder and a program to run.
	dir := filepath.Dir(path)
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.Chmod(dir, 0o755))
	visitor := filepath.Join(dir, "visitor")
	program(t, visitor)
	as := func() (string, int) {
		c := exec.Command(visitor)
		c.Dir = "/"
		c.Env = append(os.Environ(), asVisitor+"="+path)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := c.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), c.ProcessState.ExitCode()
	}
	if out, code := as(); code != 3 || out != "permission denied: "+path+"; be the daemon's user" {
		t.Errorf("exit %d: %s", code, out)
	}
	// It is the socket's mode that kept the visitor out.
	must(t, os.Chmod(path, 0o666))
	if out, code := as(); code != 0 || out != "<nil>" {
		t.Errorf("with an open socket: exit %d: %s", code, out)
	}
}

func program(t *testing.T, to string) {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	must(t, err)
	defer self.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	must(t, err)
	_, err = io.Copy(f, self)
	must(t, errors.Join(err, f.Close()))
}

// slow is a director whose Version waits.
type slow struct {
	broken
	asked, answer chan struct{}
}

func (s *slow) Version() (string, int, error) {
	close(s.asked)
	<-s.answer
	return "1.2.1", 4096, nil
}

// Serve gives the answers that it owes, and does not return before: the caller
// closes the director next.
func TestEndWaitsForAnswers(t *testing.T) {
	s := &slow{asked: make(chan struct{}), answer: make(chan struct{})}
	client, _, end := serve(t, s)
	got := make(chan error, 1)
	go func() {
		_, _, err := client.Version()
		got <- err
	}()
	<-s.asked
	answered := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() {
		close(answered)
		close(s.answer)
	})
	end()
	select {
	case <-answered:
	default:
		t.Error("ended in the middle of an answer")
	}
	if err := <-got; err != nil {
		t.Errorf("the answer: %v", err)
	}
}

// A client that does not read cannot keep the daemon from ending, and its
// director is left alone then.
func TestEndWithStuckClient(t *testing.T) {
	begun, done := make(chan struct{}), make(chan struct{})
	_, path, end := serve(t, &listing{f: func(yield func(ulvs.ConnStatus) bool) error {
		defer close(done)
		close(begun)
		for yield(aConn) {
		}
		return nil
	}})
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /v1/connections HTTP/1.1\r\nHost: ulvs\r\n\r\n")
	must(t, err)
	<-begun
	end()
	select {
	case <-done:
	default:
		t.Error("Serve returned while the director was being asked")
	}
}

// A socket that breaks under it ends Serve with the reason.
func TestBrokenListener(t *testing.T) {
	name, err := control.Reserve(filepath.Join(t.TempDir(), "ulvs.sock"))
	must(t, err)
	defer name.Close()
	l, err := name.Listen()
	must(t, err)
	must(t, l.Close())
	err = control.Serve(t.Context(), l, newBed(t))
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "control socket") {
		t.Errorf("got %v", err)
	}
}
