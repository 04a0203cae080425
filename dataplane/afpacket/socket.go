package afpacket

import (
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// Rings. A receive slot holds a frame of the usual MTU, so that the ring is
// dense in the caches and small in kernel memory (which is allocated at once,
// not on touch). Frames that are larger, which the kernel's GRO and local TCP
// make of up to 64 KiB, come by the socket's queue (PACKET_COPY_THRESH): one
// system call for some 40 segments. Slots of 64 KiB would need 32 times the
// memory, and have all headers share a few cache sets.
const (
	slotSize    = 2048
	blockSize   = 64 << 10
	rxSlots     = 4096    // 8 MiB an interface
	txSlots     = 1024    // 2 MiB an interface
	socketQueue = 8 << 20 // bytes of large frames waiting, or being sent
	// largest is the largest frame: 64 KiB of layer 3 and two tags.
	largest = macLen + 2*tagLen + 65535
)

// receiveSocket is a socket with a receive ring on one interface. It is not in the Go
// runtime's epoll set, where each frame would be made known, whether its receiver waits
// or not.
type receiveSocket struct {
	fd   int
	mem  []byte
	end  int            // an eventfd: interrupt
	poll [2]unix.PollFd // of both
}

func openReceive(ifi *net.Interface, extra dataplane.MAC) (*receiveSocket, error) {
	nothing, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err != nil {
		return nil, err
	}
	// Until the ring is there, frames would go to the socket's queue.
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: nothing})
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("afpacket: opening a packet socket on %s needs CAP_NET_RAW: run as root or in a user namespace: %w", ifi.Name, err)
		}
		return nil, fmt.Errorf("afpacket: cannot open a packet socket on %s: %w", ifi.Name, err)
	}
	s := &receiveSocket{fd: -1, end: -1}
	err = s.setup(conn, ifi, extra)
	// This takes it out of the epoll set. It lives on as s.fd.
	if err = errors.Join(err, conn.Close()); err != nil {
		s.close()
		return nil, fmt.Errorf("afpacket: cannot set up the socket on %s: %w", ifi.Name, err)
	}
	return s, nil
}

func (s *receiveSocket) setup(conn *packet.Conn, ifi *net.Interface, extra dataplane.MAC) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { s.fd, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, inner); err != nil {
		return err
	}
	if s.end, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("an eventfd: %w", err)
	}
	s.poll = [2]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.end), Events: unix.POLLIN}}
	if err := s.options(ifi, extra); err != nil {
		return err
	}
	filter, err := bpf.Assemble(receiveFilter(extra))
	if err == nil {
		err = conn.SetBPF(filter)
	}
	if err != nil {
		return fmt.Errorf("its filter: %w", err)
	}
	return s.rehook(ifi)
}

// rehook binds a socket anew whose interface was down at first. If that came up while the ring
// was made, newer kernels have missed it, and the socket would never get a frame: its protocol
// is 0 meanwhile (net/packet/af_packet.c, packet_set_ring and packet_notifier).
func (s *receiveSocket) rehook(ifi *net.Interface) error {
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || unix.Errno(code) != unix.ENETDOWN {
		return err
	}
	// Nothing is done where the protocol is the same.
	for _, protocol := range []uint16{unix.ETH_P_LOOPBACK, unix.ETH_P_ALL} {
		to := &unix.SockaddrLinklayer{Ifindex: ifi.Index, Protocol: protocol<<8 | protocol>>8}
		if err := unix.Bind(s.fd, to); err != nil {
			return fmt.Errorf("binding it anew: %w", err)
		}
	}
	return nil
}

// wait returns when there may be a frame, when the socket has an error (failed), or for
// no reason; and at once from interrupt on.
func (s *receiveSocket) wait() (failed bool) {
	if _, err := unix.Ppoll(s.poll[:], nil, nil); err != nil {
		return !errors.Is(err, unix.EINTR)
	}
	return s.poll[0].Revents&unix.POLLERR != 0
}

// interrupt ends all waits.
func (s *receiveSocket) interrupt() { _, _ = unix.Write(s.end, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (s *receiveSocket) options(ifi *net.Interface, extra dataplane.MAC) error {
	// Version and header must be set before the ring is.
	for _, o := range []struct {
		option, value int
		name          string
	}{
		{unix.PACKET_VERSION, unix.TPACKET_V2, "PACKET_VERSION"},
		{unix.PACKET_VNET_HDR, 1, "PACKET_VNET_HDR"},
		{unix.PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING (kernel 4.20)"},
		{unix.PACKET_COPY_THRESH, 1, "PACKET_COPY_THRESH"},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, o.option, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	setBuffer(s.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
	if extra != (dataplane.MAC{}) {
		m := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_UNICAST, Alen: uint16(len(extra))}
		copy(m.Address[:], extra[:])
		if err := unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return fmt.Errorf("receiving for the address %s: %w", net.HardwareAddr(extra[:]), err)
		}
	}
	var err error
	s.mem, err = mapRing(s.fd, unix.PACKET_RX_RING, rxSlots)
	return err
}

// receiveFilter lets everything in but frames to other hosts, which reach us
// when the interface is promiscuous or a bridge's.
func receiveFilter(extra dataplane.MAC) []bpf.Instruction {
	const packetOtherHost = unix.PACKET_OTHERHOST
	all := bpf.RetConstant{Val: 0x7fffffff}
	if extra == (dataplane.MAC{}) {
		return []bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtType},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: packetOtherHost, SkipFalse: 1},
			bpf.RetConstant{Val: 0},
			all,
		}
	}
	high := uint32(extra[0])<<24 | uint32(extra[1])<<16 | uint32(extra[2])<<8 | uint32(extra[3])
	low := uint32(extra[4])<<8 | uint32(extra[5])
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: packetOtherHost, SkipFalse: 5},
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: high, SkipFalse: 2},
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: low, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		all,
	}
}

func (s *receiveSocket) close() {
	if s.mem != nil {
		_ = unix.Munmap(s.mem)
	}
	for _, fd := range []int{s.fd, s.end} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// mapRing makes a ring of slots on the socket and maps it.
func mapRing(fd, option, slots int) ([]byte, error) {
	req := &unix.TpacketReq{
		Block_size: blockSize,
		Block_nr:   uint32(slots * slotSize / blockSize),
		Frame_size: slotSize,
		Frame_nr:   uint32(slots),
	}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, option, req); err != nil {
		return nil, fmt.Errorf("making a ring of %d KiB: %w", slots*slotSize>>10, err)
	}
	mem, err := unix.Mmap(fd, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the ring: %w", err)
	}
	return mem, nil
}

// setBuffer asks for a large socket buffer. Without the privilege to force
// it, net.core.rmem_max and wmem_max bound it.
func setBuffer(fd, force, ask int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketQueue) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, ask, socketQueue)
	}
}

// openSend opens a socket that only sends, on interface ifindex. It is not
// one of mdlayher's, because those are in the Go runtime's epoll set: each
// frame that the interface is done with would wake the runtime for nothing.
func openSend(ifindex int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}
	if err == nil {
		// Protocol 0: receives nothing.
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
	return fd, nil
}
