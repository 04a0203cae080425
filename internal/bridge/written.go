package bridge

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sysctlDir is where IPVS's sysctls are. It is there, and can not be listed.
const sysctlDir = "sys/net/ipv4/vs"

// isSysctl reports whether a file of IPVS's is one of those that can be written.
func isSysctl(name string) bool { return strings.HasPrefix(name, sysctlDir+"/") }

// written are the files that programs have open to write. Each is one end of a pair of sockets:
// what is written to a descriptor of the window is asked about, so that a value which is refused is
// an error of the write. What is written to a copy elsewhere, as a shell's echo does, comes out of
// the other end, and is carried out before anything else that is asked.
type written struct {
	writing sync.Mutex
	files   map[uint64]*writtenFile // by the number of the program's end
}

type writtenFile struct {
	name string
	end  int // ours
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
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
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
	if value, errno, ours = c.give(ends[1], how, at); value != answered {
		return refuse(errno)
	}
	c.files[cookie] = &writtenFile{name, ends[0]}
	return value, errno, ours
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

// settle carries out what was written to copies of such files, and forgets those that are closed.
func (s *supervisor) settle() {
	s.writing.Lock()
	defer s.writing.Unlock()
	buf := make([]byte, 4096)
	for cookie, f := range s.files {
		for {
			n, _, err := unix.Recvfrom(f.end, buf, unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			if n > 0 {
				_ = s.daemon.WriteProc(f.name, string(buf[:n])) // the program goes on already
				continue
			}
			if err == nil || err != unix.EAGAIN { // closed
				_ = unix.Close(f.end)
				delete(s.files, cookie)
			}
			break
		}
	}
}
