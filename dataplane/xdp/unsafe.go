package xdp

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stripsVLAN asks whether an interface's driver takes VLAN tags off frames
// (ethtool(8), rx-vlan-offload).
func stripsVLAN(fd int, name string) (bool, error) {
	const getFlags, stripped = 0x25, 1 << 8  // ETHTOOL_GFLAGS, ETH_FLAG_RXVLAN
	value := new(struct{ cmd, data uint32 }) // on the heap, where it does not move
	value.cmd = getFlags
	request := struct {
		name [unix.IFNAMSIZ]byte
		data uintptr
		_    [16]byte
	}{data: uintptr(unsafe.Pointer(value))}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(value)
	if errno != 0 {
		return false, os.NewSyscallError("ioctl SIOCETHTOOL", errno)
	}
	return value.data&stripped != 0, nil
}

// abandon has memory of no meaning be where an array was mapped.
func abandon(memory []byte) {
	at := unsafe.Pointer(unsafe.SliceData(memory))
	// With MAP_FIXED it takes the place of what is there; if it does not, that stays.
	_, _ = unix.MmapPtr(-1, 0, at, uintptr(len(memory)), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED)
}
