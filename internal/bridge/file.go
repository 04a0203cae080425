package bridge

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// errEnough ends what is read of a file of which it is only asked whether it is there.
var errEnough = errors.New("it is there")

// firstBytes takes the first bytes of a file.
type firstBytes struct{}

func (*firstBytes) Write([]byte) (int, error) { return 0, errEnough }

// contents are a file's now, in memory.
func (c *call) contents(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	err = c.daemon.ReadProc(f, name)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// give puts a copy of a descriptor into the program, as what a call opens: at the lowest that is
// free, or at one.
func (c *call) give(fd, how, at int) (value int64, errno unix.Errno, ours bool) {
	a := addedFD{id: c.id, from: uint32(fd)}
	if how&unix.O_CLOEXEC != 0 {
		a.toFlags = unix.O_CLOEXEC
	}
	if at != none {
		a.flags |= unix.SECCOMP_ADDFD_FLAG_SETFD
		a.to = uint32(at)
	}
	value, errno = c.addFD(a)
	return value, errno, true
}

// like is a file of the kernel's that is as those of IPVS are, but for what is in it.
func like(name string) string {
	switch {
	case name == sysctlDir:
		return "/proc/sys/net/ipv4"
	case isSysctl(name):
		return "/proc/sys/net/ipv4/ip_default_ttl"
	}
	return "/proc/self/net/protocols"
}

// stat tells of a file what the kernel tells of one like it.
func (c *call) stat(name string, into uint64, flags int, extended bool) (value int64, errno unix.Errno, ours bool) {
	var told []byte
	var err error
	if extended {
		told, err = statxBytes(like(name), flags)
	} else {
		told, err = statBytes(like(name))
	}
	if err != nil {
		return 0, 0, false
	}
	if c.write(into, told) != nil {
		return 0, unix.EFAULT, true
	}
	return 0, 0, true
}

// access says whether the program may do something with a file. Whoever administers the network
// may set sysctls, and other files are only read (net_ctl_permissions).
func (c *call) access(name string, what int) (value int64, errno unix.Errno, ours bool) {
	if what&unix.X_OK != 0 || what&unix.W_OK != 0 && !c.sets(name) {
		return 0, unix.EACCES, true
	}
	return 0, 0, true
}

// sets reports whether the program may write into a file.
func (c *call) sets(name string) bool {
	return isSysctl(name) && c.admin()
}
