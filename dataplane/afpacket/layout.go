package afpacket

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// A ring slot of TPACKET_V2 (include/uapi/linux/if_packet.h):
//
//	 0  struct tpacket2_hdr
//	32  struct sockaddr_ll (received frames)
//	    …
//	    struct virtio_net_hdr, right in front of the frame
//	    the frame, at tp_mac
//
// In a slot to be sent there is no sockaddr_ll, and the virtio_net_hdr starts
// at 32 (net/packet/af_packet.c, tpacket_parse_header); tp_len counts it.
const (
	slotStatus  = 0  // uint32
	slotLen     = 4  // uint32: bytes of the frame
	slotSnaplen = 8  // uint32: bytes of it in this slot
	slotMAC     = 12 // uint16: where the frame starts
	slotSec     = 16 // uint32: when it came
	slotNsec    = 20 // uint32
	slotTCI     = 24 // uint16
	slotTPID    = 26 // uint16
	slotPktType = 32 + 10
	slotSend    = 32

	vnetLen = 10 // struct virtio_net_hdr
	macLen  = 14 // Ethernet header
	tagLen  = 4  // 802.1Q tag
)

var native = binary.NativeEndian

// loadStatus and storeStatus are how a slot changes hands between kernel and
// process, so they order the accesses to the rest of it.
func loadStatus(slot []byte) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&slot[slotStatus])))
}

func storeStatus(slot []byte, status uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&slot[slotStatus])), status)
}

// readVnet decodes a struct virtio_net_hdr. The kernel writes it in its own
// byte order ("legacy" virtio).
func readVnet(b []byte) dataplane.Offload {
	return dataplane.Offload{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     native.Uint16(b[2:]),
		GSOSize:    native.Uint16(b[4:]),
		CsumStart:  native.Uint16(b[6:]),
		CsumOffset: native.Uint16(b[8:]),
	}
}

func writeVnet(b []byte, o dataplane.Offload) {
	b[0], b[1] = o.Flags, o.GSOType
	native.PutUint16(b[2:], o.HdrLen)
	native.PutUint16(b[4:], o.GSOSize)
	native.PutUint16(b[6:], o.CsumStart)
	native.PutUint16(b[8:], o.CsumOffset)
}

// readv is readv(2). unix.Readv allocates.
func readv(fd int, vec []unix.Iovec) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&vec[0])), uintptr(len(vec)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
