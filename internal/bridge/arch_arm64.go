package bridge

import "golang.org/x/sys/unix"

// arch is what system calls of this kind of program say that they are (AUDIT_ARCH_*). Those of
// 32 bits are allowed.
const arch = unix.AUDIT_ARCH_AARCH64

// oldPathCalls are those that newer architectures do without.
var oldPathCalls = map[int]pathCall{}

const sysFstatat = unix.SYS_FSTATAT
