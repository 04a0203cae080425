package neigh

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is one that a goroutine reads from until it is closed.
type socket struct {
	file *os.File
	raw  syscall.RawConn
}

// newSocket takes fd over, which must not block, also if it fails.
func newSocket(fd int, name string) (*socket, error) {
	s := &socket{file: os.NewFile(uintptr(fd), name)}
	var err error
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// receive reads one message, with what the kernel says beside it. It waits for one
// if wait, and gives EAGAIN otherwise.
func (s *socket) receive(buf, oob []byte, wait bool) (n, oobn int, from unix.Sockaddr, err error) {
	closed := s.raw.Read(func(fd uintptr) bool {
		n, oobn, _, from, err = unix.Recvmsg(int(fd), buf, oob, 0)
		return !wait || !errors.Is(err, unix.EAGAIN)
	})
	return n, oobn, from, errors.Join(err, closed)
}

// control runs f with the socket's descriptor.
func (s *socket) control(f func(fd int) error) (err error) {
	return errors.Join(s.raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
}

func (s *socket) close() { _ = s.file.Close() }

func setReceiveBuffer(fd, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
}
