package lab

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offload is something that an interface does for the kernel, by the number of the request that
// switches it (ethtool(8), include/uapi/linux/ethtool.h).
type Offload uint32

const (
	Checksums Offload = 0x17 // ETHTOOL_STXCSUM: of what is sent, and with them the cutting of segments
	GRO       Offload = 0x2c // ETHTOOL_SGRO: what is received is merged
	Tags      Offload = 0x26 // ETHTOOL_SFLAGS: off, VLAN tags are in the frames; there is no on
)

// Set switches an offload of an interface of the calling thread's network namespace.
func (o Offload) Set(name string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open a socket for ethtool: %w", err)
	}
	defer unix.Close(fd)
	value := &struct{ request, on uint32 }{request: uint32(o)}
	if on {
		value.on = 1
	}
	ifreq := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(value)}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	_, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if no != 0 {
		return fmt.Errorf("cannot switch an offload of %s: %w", name, os.NewSyscallError("ioctl SIOCETHTOOL", no))
	}
	return nil
}
