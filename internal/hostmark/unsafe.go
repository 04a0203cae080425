package hostmark

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockopt calls getsockopt with a structure that asks and is answered in.
func sockopt(fd, level, name int, b []byte) error {
	size := uint32(len(b)) // socklen_t
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	runtime.KeepAlive(b)
	if e != 0 {
		return e
	}
	return nil
}
