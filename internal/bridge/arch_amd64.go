package bridge

import "golang.org/x/sys/unix"

// arch is what system calls of this kind of program say that they are (AUDIT_ARCH_*). Those of
// others, 32 bits or x32, are allowed.
const arch = unix.AUDIT_ARCH_X86_64
