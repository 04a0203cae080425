package control_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// impatient is a client that gives up soon.
func impatient(path string) *control.Client {
	c := control.Dial(path)
	c.Patience = 200 * time.Millisecond
	return c
}

// silent checks that an error says which daemon did not answer.
func silent(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, ulvs.ErrNoAnswer) || errors.Is(err, ulvs.ErrUnreachable) {
		t.Fatalf("got %v", err)
	}
	for _, part := range append(parts, "did not answer within 0.2 s") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// A daemon that takes nothing is given up, by every verb, and named. What was given up is
// not carried out when the daemon goes on.
func TestSilentDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ulvs.sock")
	name, err := control.Reserve(path)
	must(t, err)
	defer name.Close()
	socket, err := name.Listen()
	must(t, err)
	// All at once, as each waits.
	all := verbs()
	given := make(chan error, len(all))
	for _, s := range all {
		go func() {
			_, err := s.do(impatient(path))
			given <- err
		}()
	}
	for range all {
		silent(t, <-given, fmt.Sprintf("(pid %d)", os.Getpid()), "it is busy", "nothing was changed")
	}
	silent(t, impatient(path).AddService(ulvs.Service{ServiceKey: tcp(web)}))
	b := newBed(t)
	server := control.NewServer(socket, nil)
	server.Ready(b)
	list, err := control.Dial(path).Services()
	must(t, err)
	server.Close() // it has looked at all that had come
	after, err := b.Services()
	must(t, err)
	if len(list)+len(after) != 0 {
		t.Errorf("what was given up was carried out: %v, %v", list, after)
	}
}

// So is one at whose socket no more can wait.
func TestFullBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ulvs.sock")
	name, err := control.Reserve(path)
	must(t, err)
	defer name.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	must(t, unix.Listen(fd, 0))
	for {
		c, err := net.Dial("unix", path)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		must(t, err)
		defer c.Close()
	}
	_, _, err = impatient(path).Version()
	silent(t, err, fmt.Sprintf("(pid %d)", os.Getpid()))
}

// long is a director whose verbs take as long as a test wants.
type long struct {
	broken
	begun, end chan struct{}
}

func (l *long) Version() (string, int, error) {
	close(l.begun)
	<-l.end
	return "1.2.1", 4096, nil
}

func (l *long) Conns(yield func(ulvs.ConnStatus) bool) error {
	for yield(aConn) {
		select {
		case <-l.end:
			return nil
		case l.begun <- struct{}{}: // somebody waits to hear that a line has gone out
			<-l.end
		}
	}
	return nil
}

// A command that the daemon has begun, and shows no sign of life in, may be carried out yet.
func TestSilentInCommand(t *testing.T) {
	defer control.SetAliveEach(time.Hour)()
	l := &long{begun: make(chan struct{}, 1), end: make(chan struct{})}
	client, _, _ := serve(t, l)
	client.Patience = 200 * time.Millisecond
	_, _, err := client.Version()
	silent(t, err, "; it had begun: see what it has done when it answers")
	close(l.end)
}

// What takes longer than a client's patience is waited for, while the daemon lives. Two
// daemons are at work at the same time.
func TestLongWork(t *testing.T) {
	defer control.SetAliveEach(5 * time.Millisecond)()
	const patience = 2 * time.Second
	var finish []func()
	for verb, ask := range map[string]func(*control.Client) error{
		"Version": func(c *control.Client) error { _, _, err := c.Version(); return err },
		"Conns":   func(c *control.Client) error { _, err := conns(c); return err },
	} {
		l := &long{begun: make(chan struct{}), end: make(chan struct{})}
		client, _, end := serve(t, l)
		client.Patience = patience
		got := make(chan error, 1)
		go func() { got <- ask(client) }()
		<-l.begun
		finish = append(finish, func() {
			select {
			case err := <-got:
				t.Errorf("%s ended early, with %v", verb, err)
				got <- nil
			default:
			}
			close(l.end)
			if err := <-got; err != nil {
				t.Errorf("%s: %v", verb, err)
			}
			end()
		})
	}
	time.Sleep(patience + patience/2) // the work
	for _, f := range finish {
		f()
	}
}

// Who comes before the daemon is ready waits for it, and is not told that there is none.
func TestNotReady(t *testing.T) {
	defer control.SetAliveEach(5 * time.Millisecond)()
	path := filepath.Join(t.TempDir(), "ulvs.sock")
	name, err := control.Reserve(path)
	must(t, err)
	defer name.Close()
	_, err = impatient(path).Services()
	silent(t, err, fmt.Sprintf("(pid %d)", os.Getpid()), "it is starting or ending; its log says more; nothing was changed")
	socket, err := name.Listen()
	must(t, err)
	server := control.NewServer(socket, nil)
	defer server.Close()
	client := control.Dial(path)
	client.Patience = 2 * time.Second
	got := make(chan error, 1)
	go func() { got <- client.AddService(ulvs.Service{ServiceKey: tcp(web)}) }()
	time.Sleep(3 * time.Second) // as long as it takes to get ready
	select {
	case err := <-got:
		t.Fatalf("answered by a daemon that is not ready: %v", err)
	default:
	}
	b := newBed(t)
	server.Ready(b)
	must(t, <-got)
	if list, err := b.Services(); err != nil || len(list) != 1 {
		t.Errorf("%d services, %v", len(list), err)
	}
}

// A daemon that dies in a command is not taken for one that has not begun.
func TestDiesInCommand(t *testing.T) {
	client, _, _ := serve(t, &listing{f: func(func(ulvs.ConnStatus) bool) error { panic(http.ErrAbortHandler) }})
	if _, err := conns(client); !errors.Is(err, ulvs.ErrNoAnswer) || !strings.Contains(err.Error(), "ended while") {
		t.Errorf("got %v", err)
	}
}

// ending is a director that can be replaced.
type ending struct {
	ulvs.Control
	handover func() error
}

func (e *ending) Handover() error { return e.handover() }

// While one daemon takes over from another, and that from a third, commands are given
// without a pause: all succeed, and none is carried out twice.
func TestCommandsInHandover(t *testing.T) {
	b := newBed(t)
	path := filepath.Join(t.TempDir(), "ulvs.sock")
	begin := func(from *os.File) (running *control.Server, ended func()) {
		name, err := control.Reserve(path)
		for err != nil { // the one before has not ended yet
			time.Sleep(time.Millisecond)
			name, err = control.Reserve(path)
		}
		var socket *control.Socket
		if from == nil {
			socket, err = name.Listen()
		} else {
			socket, err = name.Inherit(from)
		}
		must(t, err)
		s := control.NewServer(socket, nil)
		return s, func() { must(t, name.Close()) }
	}
	server, ended := begin(nil)
	end := make(chan struct{})
	var wg sync.WaitGroup
	given := make([]int, 4)
	for id := range given {
		wg.Go(func() {
			client := control.Dial(path)
			for ; ; given[id]++ {
				select {
				case <-end:
					return
				default:
				}
				if given[id]%3 == 0 {
					client = control.Dial(path) // a command of its own
				}
				k := tcp(fmt.Sprintf("10.%d.%d.%d:80", 10+id, given[id]/250, given[id]%250+1))
				if err := client.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}); err != nil {
					t.Errorf("client %d, command %d: %v", id, given[id], err)
					return
				}
			}
		})
	}
	for range 5 {
		replaced := make(chan struct{})
		server.Ready(&ending{b, func() error {
			close(replaced)
			return nil
		}})
		before, _ := b.Services()
		for list := before; len(list) < len(before)+20 && !t.Failed(); list, _ = b.Services() {
			time.Sleep(time.Millisecond)
		}
		old, oldEnded := server, ended
		go func() {
			<-replaced
			old.Close()
			oldEnded()
		}()
		from, err := control.Dial(path).Handover(t.Context())
		if err != nil || from == nil {
			t.Fatalf("handover: %v, %v", from, err)
		}
		server, ended = begin(from)
	}
	server.Ready(b)
	close(end)
	wg.Wait()
	server.Close()
	ended()
	list, err := b.Services()
	must(t, err)
	total := 0
	for _, n := range given {
		total += n
	}
	if len(list) != total || total < 100 {
		t.Errorf("%d commands succeeded, there are %d services", total, len(list))
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket outlives the last daemon")
	}
}

// A daemon that refuses to be replaced goes on as before.
func TestHandoverRefused(t *testing.T) {
	b := newBed(t)
	client, path, _ := serve(t, &ending{b, func() error { return fmt.Errorf("%w: it keeps nothing", ulvs.ErrUnsupported) }})
	for range 2 {
		from, err := control.Dial(path).Handover(t.Context())
		if from != nil || !errors.Is(err, ulvs.ErrUnsupported) {
			t.Errorf("%v, %v", from, err)
		}
		must(t, client.ZeroAll())
		must(t, control.Dial(path).ZeroAll())
	}
}
