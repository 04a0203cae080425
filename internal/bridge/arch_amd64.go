package bridge

import "golang.org/x/sys/unix"

// arch is what system calls of this kind of program say that they are (AUDIT_ARCH_*). Those of
// others, 32 bits or x32, are allowed.
const arch = unix.AUDIT_ARCH_X86_64

// oldPathCalls are those that newer architectures do without.
var oldPathCalls = map[int]pathCall{
	unix.SYS_OPEN:     {does: opens, dir: none, name: 0, how: 1},
	unix.SYS_CREAT:    {does: opens, dir: none, name: 0, how: none},
	unix.SYS_STAT:     {does: stats, dir: none, name: 0, into: 1},
	unix.SYS_LSTAT:    {does: stats, dir: none, name: 0, into: 1},
	unix.SYS_ACCESS:   {does: asks, dir: none, name: 0, how: 1},
	unix.SYS_READLINK: {does: follows, dir: none, name: 0},
}

const sysFstatat = unix.SYS_NEWFSTATAT
