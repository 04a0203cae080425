package xsk

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapRing maps a ring of so many slots, whose parts are where the kernel says
// (net/xdp/xsk.c, xsk_mmap). The memory starts on a page and the kernel aligns
// what is in it.
func mapRing[E any](fd int, pgoff int64, at unix.XDPRingOffset, slots int) (r ring[E], err error) {
	var e E
	size := int(at.Desc) + slots*int(unsafe.Sizeof(e))
	r.mem, err = unix.Mmap(fd, pgoff, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return r, fmt.Errorf("cannot map a ring of %d: %w", slots, err)
	}
	r.producer = (*atomic.Uint32)(unsafe.Pointer(&r.mem[at.Producer]))
	r.consumer = (*atomic.Uint32)(unsafe.Pointer(&r.mem[at.Consumer]))
	r.flags = (*atomic.Uint32)(unsafe.Pointer(&r.mem[at.Flags]))
	r.slots = unsafe.Slice((*E)(unsafe.Pointer(&r.mem[at.Desc])), slots)
	return r, nil
}

// offset is where in chunk data starts, if all of it lies there.
func offset(chunk, data []byte) (int, bool) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(data))) - uintptr(unsafe.Pointer(unsafe.SliceData(chunk)))
	return int(at), at < uintptr(len(chunk)) && uintptr(len(data)) <= uintptr(len(chunk))-at
}

// register makes mem the memory of the socket fd (net/xdp/xdp_umem.c,
// xdp_umem_reg), which pins its pages.
func register(fd int, mem []byte, chunkSize int) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))), // not Go's: it stays there
		Len:  uint64(len(mem)),
		Size: uint32(chunkSize),
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt XDP_UMEM_REG", errno)
	}
	return nil
}

// option reads one of SOL_XDP's options, all of it or nothing.
func option[T any](fd, name int) (value T, err error) {
	size := uint32(unsafe.Sizeof(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(name),
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return value, os.NewSyscallError(fmt.Sprintf("getsockopt SOL_XDP %d", name), errno)
	}
	if size != uint32(unsafe.Sizeof(value)) {
		return value, fmt.Errorf("getsockopt SOL_XDP %d gives %d bytes: this needs Linux 5.9 or later", name, size)
	}
	return value, nil
}
