package bridge

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sysctlDir is where IPVS's sysctls are. It is there, and can not be listed.
const sysctlDir = "sys/net/ipv4/vs"

// isSysctl reports whether a file of IPVS's is one of those that can be written.
func isSysctl(name string) bool { return strings.HasPrefix(name, sysctlDir+"/") }

// written are the files that programs have open to write. Each is one end of a pair of sockets, which
// keep writes apart. What is written to a descriptor of the window is asked about, so that a value
// which is refused is an error of the write. What is written to a copy elsewhere, as a shell's echo
// does, comes out of the other end, and is carried out before anything else that is asked.
type written struct {
	writing sync.Mutex
	files   map[uint64]*writtenFile // by the number of the program's end
}

type writtenFile struct {
	name string
	end  int // ours, which file closes
	file *os.File
}

// mostWritten bounds how many are open at once.
const mostWritten = 256

// openToWrite opens a sysctl.
func (c *call) openToWrite(name string, how int) (value int64, errno unix.Errno, ours bool) {
	if !c.has(name) {
		return 0, 0, false
	}
	if !c.sets(name) {
		return 0, unix.EACCES, true
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(ends[0], true) // the other end waits as a file would
	}
	if err != nil {
		return 0, unix.EMFILE, true
	}
	defer unix.Close(ends[1])
	refuse := func(errno unix.Errno) (int64, unix.Errno, bool) {
		_ = unix.Close(ends[0])
		return 0, errno, true
	}
	if how&unix.O_ACCMODE == unix.O_RDWR {
		var now strings.Builder
		if err := c.daemon.ReadProc(&now, name); err != nil {
			return refuse(unix.EIO)
		}
		if _, err := unix.Write(ends[0], []byte(now.String())); err != nil {
			return refuse(unix.EIO)
		}
	}
	cookie, err := unix.GetsockoptUint64(ends[1], unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil || unix.Shutdown(ends[0], unix.SHUT_WR) != nil {
		return refuse(unix.EIO)
	}
	c.opening.Lock()
	defer c.opening.Unlock()
	at := c.free(c.window)
	if at < 0 {
		return refuse(unix.EMFILE)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if len(c.files) >= mostWritten {
		return refuse(unix.EMFILE)
	}
	if value, errno, ours = c.give(ends[1], how, at); errno != 0 {
		return refuse(errno)
	}
	f := &writtenFile{name, ends[0], os.NewFile(uintptr(ends[0]), name)}
	c.files[cookie] = f
	go c.await(cookie, f)
	return value, errno, ours
}

// await carries out what is written to copies of a file as it comes, until all are closed.
func (s *supervisor) await(cookie uint64, f *writtenFile) {
	defer f.file.Close()
	if conn, err := f.file.SyscallConn(); err == nil {
		_ = conn.Read(func(uintptr) (over bool) {
			s.writing.Lock()
			defer s.writing.Unlock()
			return s.drain(cookie, f)
		})
	}
}

// writeFile carries out a write to such a file.
func (c *call) writeFile(fd int) (value int64, errno unix.Errno, ours bool) {
	if c.number != unix.SYS_WRITE && c.number != unix.SYS_WRITEV {
		return 0, 0, false
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0, 0, false
	}
	c.writing.Lock()
	f := c.files[cookie]
	c.writing.Unlock()
	if f == nil {
		return 0, 0, false
	}
	text, _, err := c.sent()
	if err != nil {
		return 0, unix.EFAULT, true
	}
	c.settle()
	if err := c.daemon.WriteProc(f.name, string(text)); err != nil {
		return 0, c.absent(err), true
	}
	return int64(len(text)), 0, true
}

// settle carries out what was written to copies of such files before.
func (s *supervisor) settle() {
	s.writing.Lock()
	defer s.writing.Unlock()
	for cookie, f := range s.files {
		s.drain(cookie, f)
	}
}

// drain carries out what waits in a file, and forgets it when all copies are closed. The caller holds
// writing.
func (s *supervisor) drain(cookie uint64, f *writtenFile) (over bool) {
	if s.files[cookie] != f {
		return true
	}
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(f.end, buf, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case n > 0:
			_ = s.daemon.WriteProc(f.name, string(buf[:n])) // the program goes on already
		case err == unix.EAGAIN:
			return false
		case err == nil && !hungUp(f.end): // a write of nothing
		default:
			delete(s.files, cookie)
			return true
		}
	}
}

// hungUp reports whether all copies of the other end are closed.
func hungUp(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(poll, 0)
	return err != nil || n > 0 && poll[0].Revents&unix.POLLHUP != 0
}
