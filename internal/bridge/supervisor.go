package bridge

import (
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

// Daemon answers what programs ask of IPVS; the client of the control socket does. The error is
// that nobody answered.
type Daemon interface {
	IPVS(ipvsnl.Request) (ipvsnl.Reply, error)
	// ReadProc writes the contents of a file of /proc, named as it is there, and WriteProc takes
	// what is written into one.
	ReadProc(w io.Writer, name string) error
	WriteProc(name, text string) error
}

// supervisor answers the system calls of one program and its children.
type supervisor struct {
	listener
	window
	daemon Daemon
	// absent says of an error of the daemon's which errno it is.
	absent func(error) unix.Errno

	opening sync.Mutex // a descriptor of the window
	mu      sync.Mutex // guards senders and queues
	senders map[uint64]*sender
	queues  map[uint64]*queue
	written
}

// serve answers until the last process that has the filter has ended.
func (s *supervisor) serve() error {
	for {
		poll := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		switch {
		case poll[0].Revents&unix.POLLIN != 0:
		case poll[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0:
			return nil
		default:
			continue
		}
		n, errno := s.receive()
		switch errno {
		case 0:
			go s.answer(&n)
		case unix.ENOENT: // its thread was killed
		default:
			return errno
		}
	}
}

// answer answers one system call. One that is not for IPVS, or cannot be looked at, is the
// kernel's.
func (s *supervisor) answer(n *notification) {
	r := response{id: n.id, flags: flagContinue}
	if p, is := pathCalls[int(n.number)]; is {
		// Most names are nobody's, and cost no more than to be read.
		glance := &call{s, &thread{tid: int(n.thread), process: int(n.thread)}, n}
		if _, is := glance.procName(p); !is {
			s.respond(r)
			return
		}
	}
	t, err := threadOf(s.listener, n)
	if err != nil {
		s.respond(r)
		return
	}
	defer t.close()
	c := &call{supervisor: s, thread: t, notification: n}
	if value, errno, ours := c.carryOut(); ours {
		r = response{id: n.id, value: value, err: -int32(errno)}
	}
	s.respond(r)
}

// call is a system call that waits.
type call struct {
	*supervisor
	*thread
	*notification
}

// carryOut does what a call asks, and returns its value or its errno; or says that it is not ours.
func (c *call) carryOut() (value int64, errno unix.Errno, ours bool) {
	switch c.number {
	case unix.SYS_SOCKET:
		return c.socket()
	case unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT:
		return c.option()
	}
	if p, is := pathCalls[int(c.number)]; is {
		return c.path(p)
	}
	fd, err := c.descriptor(int(int32(c.args[0])))
	if err != nil {
		return 0, 0, false
	}
	defer unix.Close(fd)
	k, err := socketOf(fd)
	if err != nil {
		return c.writeFile(fd)
	}
	switch c.number {
	case unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_WRITE, unix.SYS_WRITEV:
		return c.send(k)
	}
	return c.receiveFrom(k)
}

// ask has the daemon answer.
func (s *supervisor) ask(r ipvsnl.Request) ipvsnl.Reply {
	s.settle()
	reply, err := s.daemon.IPVS(r)
	if err != nil {
		return ipvsnl.Refuse(r, s.absent(err))
	}
	return reply
}
