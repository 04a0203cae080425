package control_test

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/control"
	"github.com/ulvs/ulvs/internal/lab"
)

// log is what was logged so far.
type log struct{ lab.Output }

// await waits until a text was logged n times.
func (l *log) await(t *testing.T, text string, n int) {
	t.Helper()
	for began := time.Now(); strings.Count(l.String(), text) < n; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("%q was not logged: %s", text, l)
		}
	}
}

// A socket that was removed comes back, also with its lock file; one that is another
// process's by now is left to it, for as long as it is.
func TestVanishedSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ulvs.sock")
	name, err := control.Reserve(path)
	must(t, err)
	defer func() { must(t, name.Close()) }()
	socket, err := name.Listen()
	must(t, err)
	said := &log{}
	server := control.NewServer(socket, slog.New(slog.NewTextHandler(said, nil)))
	server.Ready(newBed(t))
	defer server.Close()
	client := control.Dial(path)
	client.Patience = time.Minute
	for range 2 {
		must(t, os.Remove(path))
		_, _, err = control.Dial(path).Version() // it is waited for
		must(t, err)
	}
	said.await(t, "was made again", 2)
	must(t, os.Remove(path))
	must(t, os.Remove(path+".lock"))
	said.await(t, "was made again", 3)
	_, _, err = client.Version()
	must(t, err)
	refused(t, path, "another ulvs daemon has it")
	if mode(t, path).Perm() != 0o600 {
		t.Errorf("its mode is %v", mode(t, path))
	}

	other := usurp(t, path)
	at, err := os.Lstat(path)
	must(t, err)
	said.await(t, "another process listens there", 1)
	said.await(t, "the control socket has vanished, and is not made again: ", 1)
	if now, err := os.Lstat(path); err != nil || !os.SameFile(at, now) {
		t.Errorf("another process's socket was replaced: %v", err)
	}
	must(t, other.Close())
	said.await(t, "was made again", 4)

	must(t, os.WriteFile(path+".other", []byte("precious"), 0o600))
	must(t, os.Rename(path+".other", path))
	said.await(t, "no socket", 1)
	must(t, os.Remove(path))
	said.await(t, "was made again", 5)

	// Another daemon has the name.
	second, err := control.Reserve(path + "2")
	must(t, err)
	must(t, os.Rename(path+"2.lock", path+".lock"))
	must(t, os.Remove(path))
	said.await(t, "another ulvs daemon has it", 1)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket was made again where another daemon has reserved the name")
	}
	must(t, second.Close())
	said.await(t, "was made again", 6)
}

// usurp has another process listen in a daemon's place.
func usurp(t *testing.T, path string) net.Listener {
	t.Helper()
	l := listen(t, path+".other")
	must(t, os.Rename(path+".other", path))
	return l
}

// What took a daemon's name is not removed when the daemon ends.
func TestEndLeavesOthers(t *testing.T) {
	_, path, end := serve(t, newBed(t))
	defer usurp(t, path).Close()
	end()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's socket is gone: %v", err)
	}
}
