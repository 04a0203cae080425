package conformance

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutXState has the calling thread, and what it executes, hear that the kernel cannot tell or
// set the extended state of another's processor (ptrace(2), NT_X86_XSTATE): user-mode Linux
// 6.1 has less room for that than processors with AMX need, and panics (arch/x86/um/os-Linux/registers.c).
// It does with the state of old then. The thread must be locked, and is good for nothing else.
func withoutXState() error {
	const (
		// Where the filter finds the system call's number, and the lower halves of its arguments (struct
		// seccomp_data).
		number, request, set = 0, 16, 16 + 2*8

		getRegSet, setRegSet, xstate = 0x4204, 0x4205, 0x202
	)
	list := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PTRACE, Jf: 6},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: request},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: getRegSet, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: setRegSet, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: set},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: xstate, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(list)), Filter: unsafe.SliceData(list)}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(list)
	if errno != 0 {
		return fmt.Errorf("a filter of system calls: %w", errno)
	}
	return nil
}
