package wire

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// words is a BPF array of one element, and its memory, which is read and written
// without system calls.
type words[W uint32 | uint64] struct {
	*ebpf.Map
	memory []byte
	w      []W
}

func newWords[W uint32 | uint64](name string, n int) (*words[W], error) {
	var one W
	size, page := n*int(unsafe.Sizeof(one)), os.Getpagesize()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size),
		MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	if err != nil {
		return nil, fmt.Errorf("cannot make a BPF array of %d bytes: %w", size, permitted(err))
	}
	memory, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("cannot map a BPF array of %d bytes: %w", size, permitted(err))
	}
	return &words[W]{m, memory, unsafe.Slice((*W)(unsafe.Pointer(unsafe.SliceData(memory))), n)}, nil
}

// close gives the array back. It may be nil.
func (w *words[W]) close() {
	if w != nil {
		_ = unix.Munmap(w.memory)
		_ = w.Map.Close()
	}
}

// ETHTOOL_SGRO and struct ethtool_value (include/uapi/linux/ethtool.h), and struct
// ifreq with a pointer to it.
const ethtoolSetGRO = 0x2c

type ethtoolValue struct{ command, value uint32 }

type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data *ethtoolValue
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// GRO switches generic receive offload of the interface on. It has a veth interface
// take frames in a NAPI context, redirected ones too, without an XDP program.
func (e End) GRO() error {
	return e.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot open a socket for ethtool: %w", err)
		}
		defer unix.Close(fd)
		r := ethtoolRequest{data: &ethtoolValue{ethtoolSetGRO, 1}}
		copy(r.name[:unix.IFNAMSIZ-1], e.Name)
		if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL,
			uintptr(unsafe.Pointer(&r))); no != 0 {
			return fmt.Errorf("cannot switch GRO of %s: %w", e.Name, permitted(no))
		}
		return nil
	})
}
