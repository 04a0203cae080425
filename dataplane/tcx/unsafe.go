package tcx

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// askFlags gets or sets the flags of an interface (ethtool(8); ETHTOOL_GFLAGS and ETHTOOL_SFLAGS), in the calling
// thread's network namespace, and returns what they are then said to be.
func askFlags(name string, request, flags uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot open a socket for ethtool: %w", err)
	}
	defer unix.Close(fd)
	value := &struct{ request, flags uint32 }{request, flags} // struct ethtool_value
	ifreq := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(value)}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	_, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if no != 0 {
		return 0, os.NewSyscallError("ioctl SIOCETHTOOL", no)
	}
	return value.flags, nil
}
