package ipvsnl

import (
	"reflect"
	"runtime"

	"golang.org/x/sys/unix"
)

// getOption is getsockopt at level IPPROTO_IP, with the caller's bytes in it.
func getOption(fd, option int, value []byte) (size int, errno unix.Errno) {
	length := []uint32{uint32(len(value))}
	_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, uintptr(option),
		reflect.ValueOf(value).Pointer(), reflect.ValueOf(length).Pointer(), 0)
	runtime.KeepAlive(value)
	return int(length[0]), errno
}
