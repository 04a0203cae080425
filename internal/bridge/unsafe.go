package bridge

import (
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// notification is a system call that waits for an answer (struct seccomp_notif).
type notification struct {
	id     uint64
	thread uint32 // as the supervisor's namespace of processes numbers it
	_      uint32
	number int32
	_      uint32 // architecture
	_      uint64 // instruction pointer
	args   [6]uint64
}

// response answers it (struct seccomp_notif_resp).
type response struct {
	id    uint64
	value int64
	err   int32 // 0, or an errno negated
	flags uint32
}

// addedFD puts a descriptor into the program (struct seccomp_notif_addfd).
type addedFD struct {
	id      uint64
	flags   uint32
	from    uint32
	to      uint32
	toFlags uint32
}

const (
	flagContinue = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
	ioctlValid   = 0x40082102 // SECCOMP_IOCTL_NOTIF_ID_VALID
	ioctlAddFD   = 0x40182103 // SECCOMP_IOCTL_NOTIF_ADDFD
)

// listener is where notifications come from.
type listener struct{ fd int }

func (l listener) ioctl(request uint, arg unsafe.Pointer) (value uintptr, errno unix.Errno) {
	for {
		value, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), uintptr(request), uintptr(arg))
		if errno != unix.EINTR {
			return value, errno
		}
	}
}

// receive takes the next one. ENOENT says that its thread has gone meanwhile.
func (l listener) receive() (n notification, errno unix.Errno) {
	_, errno = l.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n))
	return n, errno
}

// respond answers one. It may have gone.
func (l listener) respond(r response) {
	_, _ = l.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

// valid reports whether it still waits, so that its thread is still the one that it was.
func (l listener) valid(id uint64) bool {
	_, errno := l.ioctl(ioctlValid, unsafe.Pointer(&id))
	return errno == 0
}

// addFD puts a descriptor there, and returns its number. The call is answered afterwards: with
// SECCOMP_ADDFD_FLAG_SEND a signal to this thread, as Go's scheduler sends them, can have the kernel
// take the descriptor back and answer 0 (kernel/seccomp.c, seccomp_notify_addfd). The program's own
// signals do not come between, as it waits killable.
func (l listener) addFD(a addedFD) (fd int64, errno unix.Errno) {
	value, errno := l.ioctl(ioctlAddFD, unsafe.Pointer(&a))
	return int64(value), errno
}

// install has the calling thread, and what it will execute, filtered. It returns the listener.
// The thread must be locked.
func install(program []bpf.RawInstruction) (listener, unix.Errno) {
	list := make([]unix.SockFilter, len(program))
	for i, p := range program {
		list[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	prog := unix.SockFprog{Len: uint16(len(list)), Filter: unsafe.SliceData(list)}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags,
		uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(list)
	if errno != 0 {
		return listener{-1}, errno
	}
	return listener{int(fd)}, 0
}

// statBytes is what stat(2) tells of a file, as it is in memory.
func statBytes(path string) ([]byte, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)), err
}

// statxBytes is what statx(2) tells of one.
func statxBytes(path string, flags int) ([]byte, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, flags&^unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st)
	return unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)), err
}
