package lab

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offload is something that an interface does for the kernel, by the number of the request that
// switches it (ethtool(8), include/uapi/linux/ethtool.h).
type Offload uint32

const (
	Checksums Offload = 0x17 // ETHTOOL_STXCSUM: of what is sent, and with them the cutting of segments
	GRO       Offload = 0x2c // ETHTOOL_SGRO: what is received is merged

	// Of one request, ETHTOOL_SFLAGS, a flag each: VLAN tags lie beside what is sent, or received, and not in it.
	TagsSent     Offload = 0x26 | flag<<7 // ETH_FLAG_TXVLAN
	TagsReceived Offload = 0x26 | flag<<8 // ETH_FLAG_RXVLAN
)

// flag is where flags begin that a request is about.
const flag = 1 << 8

// Set switches an offload of an interface of the calling thread's network namespace.
func (o Offload) Set(name string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open a socket for ethtool: %w", err)
	}
	defer unix.Close(fd)
	value := &ethtoolValue{request: uint32(o)}
	if on {
		value.value = 1
	}
	if flags := uint32(o) / flag; flags != 0 {
		const get = 0x25 // ETHTOOL_GFLAGS
		value.request = get
		if err := value.ask(fd, name); err != nil {
			return err
		}
		value.request = uint32(o) % flag
		if value.value &^= flags; on {
			value.value |= flags
		}
	}
	return value.ask(fd, name)
}

// ethtoolValue is struct ethtool_value (include/uapi/linux/ethtool.h).
type ethtoolValue struct{ request, value uint32 }

// ask has an interface's driver carry a request out.
func (v *ethtoolValue) ask(fd int, name string) error {
	ifreq := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(v)}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	_, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if no != 0 {
		return fmt.Errorf("cannot switch an offload of %s: %w", name, os.NewSyscallError("ioctl SIOCETHTOOL", no))
	}
	return nil
}

// passing returns a new XDP program that passes all frames (bpf(2), include/uapi/linux/bpf.h).
func passing() (fd int, err error) {
	// r0 = XDP_PASS; exit
	code := [...]uint64{0x2_0000_00b7, 0x95}
	license := [...]byte{'G', 'P', 'L', 0}
	attr := struct {
		kind, length  uint32
		code, license uint64
		_             [112]byte
	}{kind: 6, length: uint32(len(code))} // BPF_PROG_TYPE_XDP
	attr.code, attr.license = uint64(uintptr(unsafe.Pointer(&code))), uint64(uintptr(unsafe.Pointer(&license)))
	const load = 5 // BPF_PROG_LOAD
	made, _, errno := unix.Syscall(unix.SYS_BPF, load, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&code)
	runtime.KeepAlive(&license)
	if errno != 0 {
		return -1, os.NewSyscallError("bpf BPF_PROG_LOAD", errno)
	}
	return int(made), nil
}
