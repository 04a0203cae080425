package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// Server answers requests at a socket. Those that come before Ready wait.
type Server struct {
	socket *Socket
	http   http.Server
	served chan error // what the HTTP server ended with

	ready   chan struct{} // closed by Ready
	control ulvs.Control  // from then on
	handler http.Handler

	answering sync.RWMutex // held for reading by every request
	ended     bool         // guarded by answering
	// commands is held for reading by a request until its answer begins, and handing by
	// a handover.
	commands  sync.RWMutex
	handing   sync.Mutex
	refusing  atomic.Bool
	abandoned chan struct{} // closed when what waits for Ready does so in vain
	abandon   func()
	watched   sync.WaitGroup
}

// NewServer begins to take requests, which wait until Ready; Run or Close ends it. log
// is told when the socket vanishes; nil is slog.Default().
func NewServer(socket *Socket, log *slog.Logger) *Server {
	if log != nil {
		socket.log = log
	}
	s := &Server{socket: socket, served: make(chan error, 1), ready: make(chan struct{}),
		abandoned: make(chan struct{})}
	s.abandon = sync.OnceFunc(func() { close(s.abandoned) })
	s.http = http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(s.serve)}
	s.watched.Go(socket.watch)
	go func() { s.served <- s.http.Serve(socket) }()
	return s
}

// Ready has requests answered with what c does. It is called once.
func (s *Server) Ready(c ulvs.Control) {
	s.control, s.handler = c, Handler(c)
	close(s.ready)
}

// Refuse has no more commands carried out, and returns when none is being. Clients send
// them again, for the next daemon.
func (s *Server) Refuse() {
	s.refusing.Store(true)
	s.socket.pause()
	s.commands.Lock()
	defer s.commands.Unlock()
}

// Run answers until ctx ends. When it returns, no request is being answered any more, so
// that what answers them may be closed.
func (s *Server) Run(ctx context.Context) error {
	down := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(down)
		s.Close()
	})
	err := <-s.served
	if !stop() {
		<-down
		return nil
	}
	s.Close()
	return fmt.Errorf("control socket: %w", err)
}

// Close ends a server.
func (s *Server) Close() {
	s.abandon()
	s.Refuse()
	s.handing.Lock() // its answer comes last
	defer s.handing.Unlock()
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.http.Shutdown(end) != nil {
		_ = s.http.Close()
	}
	_ = s.socket.Close()
	s.watched.Wait()
	// Close ends connections but waits for no handler.
	s.answering.Lock()
	s.ended = true
	s.answering.Unlock()
}

// Serve answers on a socket with what c does, until ctx ends: NewServer, Ready and Run.
func Serve(ctx context.Context, socket *Socket, c ulvs.Control) error {
	s := NewServer(socket, nil)
	s.Ready(c)
	return s.Run(ctx)
}

// serve answers a request. One that is not carried out ends without an answer, before
// the client was told that it is.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.answering.RLock()
	defer s.answering.RUnlock()
	if s.ended {
		panic(http.ErrAbortHandler)
	}
	p := newProgress(w, r)
	defer p.end()
	select {
	case <-s.ready:
	default:
		p.wait()
		select {
		case <-s.ready:
		case <-s.abandoned:
			panic(http.ErrAbortHandler)
		}
	}
	if r.Method == http.MethodPost && r.URL.Path == "/v1/handover" {
		s.handover(p, r)
		return
	}
	s.commands.RLock()
	p.working = sync.OnceFunc(s.commands.RUnlock)
	defer p.working()
	if s.refusing.Load() || !p.take() {
		panic(http.ErrAbortHandler)
	}
	s.handler.ServeHTTP(p, r)
	p.WriteHeader(http.StatusOK) // if it has answered nothing
}

// headerPass asks for the socket behind the answer to a handover.
const headerPass = "Ulvs-Pass-Socket"

// Handoverer is a Control that can be told to end and to leave everything to the next
// daemon. Handover returns when it has ended but for answering.
type Handoverer interface{ Handover() error }

// handover ends this daemon, and gives its socket to the client, if that wants it.
func (s *Server) handover(p *progress, r *http.Request) {
	s.handing.Lock()
	defer s.handing.Unlock()
	if s.refusing.Load() || !p.take() { // this daemon ends already, or the next one has given up
		panic(http.ErrAbortHandler)
	}
	h, can := s.control.(Handoverer)
	if !can {
		reply(p, nil, fmt.Errorf("%w: this daemon hands nothing over", ulvs.ErrUnsupported))
		return
	}
	var rights []byte
	if r.Header.Get(headerPass) != "" {
		fd, err := s.socket.give()
		if err != nil {
			reply(p, nil, fmt.Errorf("cannot hand the control socket over: %w", err))
			return
		}
		defer unix.Close(fd)
		rights = unix.UnixRights(fd)
	}
	s.Refuse()
	if err := h.Handover(); err != nil {
		s.socket.keep()
		s.refusing.Store(false)
		s.socket.resume()
		reply(p, nil, err)
		return
	}
	if rights == nil {
		reply(p, nil, nil)
		return
	}
	if err := p.pass(rights); err != nil { // nobody has it: Close takes the name away
		s.socket.keep()
	}
}

// pass answers with an empty object, and the rights to a descriptor beside it.
func (p *progress) pass(rights []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun, p.ended = true, true
	c, _, err := http.NewResponseController(p.w).Hijack()
	if err != nil {
		return err
	}
	defer c.Close()
	u, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("the connection is no unix socket")
	}
	const answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}\n"
	_, _, err = u.WriteMsgUnix([]byte(answer), rights, nil)
	return err
}
