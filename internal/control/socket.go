package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is where a daemon listens. Where its name vanishes, it gets it back; where
// another daemon has the name, it leaves it.
type Socket struct {
	name *Reservation
	log  *slog.Logger

	mu       sync.Mutex
	listener *net.UnixListener
	at       fs.FileInfo   // the name as it was made; nil: unknown
	resumed  chan struct{} // closed while connections are taken
	paused   bool
	given    bool   // another process listens at it too
	said     string // why the name is not taken back, logged once
	ended    chan struct{}
}

// lookEach is how often a daemon looks whether its socket still has its name.
const lookEach = 500 * time.Millisecond

// Listen makes the socket, which only its owner may use, in the place of one
// that a dead daemon left.
func (r *Reservation) Listen() (*Socket, error) {
	s := newSocket(r)
	if err := s.listen(); err != nil {
		return nil, err
	}
	return s, nil
}

// Inherit goes on listening at a socket that an earlier daemon handed over
// (Client.Handover), which it closes: who has connected meanwhile waits in it.
func (r *Reservation) Inherit(from *os.File) (*Socket, error) {
	defer from.Close()
	inherited := func(err error) error {
		return fmt.Errorf("control socket %s: going on with the earlier daemon's: %w", r.path, err)
	}
	// Clients are told whose socket it is by who listened last (net/unix/af_unix.c,
	// unix_listen). The kernel cuts the backlog to net.core.somaxconn.
	if err := unix.Listen(int(from.Fd()), 1<<15); err != nil {
		return nil, inherited(err)
	}
	l, err := net.FileListener(from)
	if err != nil {
		return nil, inherited(err)
	}
	unixListener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, inherited(errors.Join(errors.New("it is no unix socket"), l.Close()))
	}
	s := newSocket(r)
	unixListener.SetUnlinkOnClose(false)
	s.listener = unixListener
	s.at, _ = os.Lstat(r.path) // where it has gone, Watch makes it anew
	return s, nil
}

func newSocket(r *Reservation) *Socket {
	s := &Socket{name: r, log: slog.Default(), resumed: make(chan struct{}), ended: make(chan struct{})}
	close(s.resumed)
	return s
}

// listen takes the name. The caller has it reserved.
func (s *Socket) listen() error {
	path := s.name.path
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	// It must never be open to others, not even for a moment: its mode is the socket's
	// own before it has a name (unix_bind_bsd).
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(failed, err)
	}}
	l, err := c.Listen(context.Background(), "unix", path)
	if err != nil {
		return fmt.Errorf("control socket: %w; give another with --control", err)
	}
	fresh := l.(*net.UnixListener)
	fresh.SetUnlinkOnClose(false)
	at, err := os.Lstat(path)
	if err != nil {
		at = nil // gone again
	}
	s.mu.Lock()
	old := s.listener
	s.listener, s.at = fresh, at
	if s.paused {
		_ = fresh.SetDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	if old != nil {
		_ = old.Close() // who waited in it connects anew
	}
	return nil
}

// Accept implements net.Listener.
func (s *Socket) Accept() (net.Conn, error) {
	for {
		s.mu.Lock()
		l, resumed := s.listener, s.resumed
		s.mu.Unlock()
		select {
		case <-resumed:
		case <-s.ended:
			return nil, net.ErrClosed
		}
		c, err := l.Accept()
		if err == nil {
			return c, nil
		}
		s.mu.Lock()
		again := s.listener != l || s.paused || errors.Is(err, os.ErrDeadlineExceeded)
		s.mu.Unlock()
		if !again {
			return nil, err
		}
	}
}

// Addr implements net.Listener.
func (s *Socket) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener.Addr()
}

// pause has those who connect wait in the socket, for resume or another process.
func (s *Socket) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.paused {
		s.paused, s.resumed = true, make(chan struct{})
		_ = s.listener.SetDeadline(time.Unix(1, 0))
	}
}

func (s *Socket) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused && !s.given {
		s.paused = false
		_ = s.listener.SetDeadline(time.Time{})
		close(s.resumed)
	}
}

// give returns a descriptor of the socket for another process, which is to have the name
// too.
func (s *Socket) give() (fd int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return -1, err
	}
	// A File's Fd would make the socket a blocking one, for all.
	failed := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(failed, err); err != nil {
		return -1, err
	}
	s.given = true
	return fd, nil
}

// keep undoes give: nobody else has it.
func (s *Socket) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given = false
}

// Close ends listening, and takes the name away, if it is still this socket's.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
	default:
		close(s.ended)
	}
	if !s.given && s.named() {
		_ = os.Remove(s.name.path)
		s.at = nil
	}
	return s.listener.Close()
}

// named reports whether the name is this socket's. The caller holds mu.
func (s *Socket) named() bool {
	now, err := os.Lstat(s.name.path)
	return err == nil && s.at != nil && os.SameFile(now, s.at)
}

// watch has the name come back where it vanishes, until the socket is closed.
func (s *Socket) watch() {
	t := time.NewTicker(lookEach)
	defer t.Stop()
	for {
		select {
		case <-s.ended:
			return
		case <-t.C:
			s.look()
		}
	}
}

func (s *Socket) look() {
	s.mu.Lock()
	named, given := s.named(), s.given
	s.mu.Unlock()
	if named || given {
		s.said = ""
		return
	}
	why := s.name.taken()
	if why == "" {
		if err := s.listen(); err != nil {
			why = err.Error()
		} else {
			s.log.Warn("the control socket had vanished, and was made again", "control", s.name.path)
		}
	}
	if why != s.said && why != "" {
		s.log.Warn("the control socket has vanished, and is not made again: commands do not reach this daemon",
			"control", s.name.path, "because", why)
	}
	s.said = why
}

// taken says who else has the name by now, or "".
func (r *Reservation) taken() string {
	if err := r.lockAgain(); err != nil {
		return err.Error()
	}
	st, err := os.Lstat(r.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil:
		return err.Error()
	case st.Mode()&os.ModeSocket == 0:
		return "there is a file of that name that is no socket"
	}
	c, err := net.Dial("unix", r.path)
	if err == nil {
		_ = c.Close()
	}
	if err == nil || errors.Is(err, unix.EAGAIN) {
		return "another process listens there"
	}
	return ""
}
