//go:build !(armbe || arm64be || m68k || mips || mips64 || mips64p32 || ppc || ppc64 || s390 || s390x || shbe || sparc || sparc64)

package packet

// big is 1 where the first byte in memory is a register's most significant.
const big = 0
