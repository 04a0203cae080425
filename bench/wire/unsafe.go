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
