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
	synSlots    = 4096    // likewise
	txSlots     = 1024    // 2 MiB an interface
	socketQueue = 8 << 20 // bytes of large frames waiting, or being sent
	// largest is the largest frame: 64 KiB of layer 3 and two tags.
	largest = macLen + 2*tagLen + 65535
)

// receiveSocket is the sockets of one interface, with a ring each. They are not in the Go
// runtime's epoll set, where each frame would be made known, whether its receiver waits
// or not.
type receiveSocket struct {
	ring       // of all frames that are ours, but for
	syns  ring // those that open connections
	order order
	end   int            // an eventfd: interrupt
	poll  [3]unix.PollFd // of all of them
}

// openReceive opens them, for frames of the interface with the number of, which takes those to one more
// address. Where they come by another one all there are ours, whatever their addresses.
func openReceive(ifi *net.Interface, of int, extra dataplane.MAC) (*receiveSocket, error) {
	s := &receiveSocket{ring: ring{fd: -1}, syns: ring{fd: -1}, end: -1}
	filter := func(opening bool) []bpf.Instruction { return receiveFilter(extra, opening) }
	if of != ifi.Index {
		filter = tapFilter
	}
	err := s.ring.open(ifi, filter(false), rxSlots, func(fd int) error { return large(fd, of, extra) })
	if err == nil {
		err = s.syns.open(ifi, filter(true), synSlots, nil)
	}
	if err == nil {
		if s.end, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			err = fmt.Errorf("cannot make an eventfd for %s: %w", ifi.Name, err)
		}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	for i, fd := range []int{s.fd, s.syns.fd, s.end} {
		s.poll[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	return s, nil
}

// open opens a socket with a ring of slots for what a filter lets in. More are options
// besides.
func (g *ring) open(ifi *net.Interface, filter []bpf.Instruction, slots int, more func(fd int) error) error {
	nothing, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err != nil {
		return err
	}
	// Until the ring is there, frames would go to the socket's queue.
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: nothing})
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("opening a packet socket on %s needs CAP_NET_RAW: run as root or in a user namespace: %w", ifi.Name, err)
		}
		return fmt.Errorf("cannot open a packet socket on %s: %w", ifi.Name, err)
	}
	err = g.setup(conn, ifi, filter, slots, more)
	// This takes it out of the epoll set. It lives on as g.fd.
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("cannot set up the socket on %s: %w", ifi.Name, err)
	}
	return nil
}

func (g *ring) setup(conn *packet.Conn, ifi *net.Interface, filter []bpf.Instruction, slots int,
	more func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { g.fd, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, inner); err != nil {
		return err
	}
	// Version and header must be set before the ring is.
	if err := setOptions(g.fd, []option{
		{unix.PACKET_VERSION, unix.TPACKET_V2, "PACKET_VERSION"},
		{unix.PACKET_VNET_HDR, 1, "PACKET_VNET_HDR"},
		{unix.PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING (kernel 4.20)"},
	}); err != nil {
		return err
	}
	if more != nil {
		if err := more(g.fd); err != nil {
			return err
		}
	}
	if g.mem, err = mapRing(g.fd, unix.PACKET_RX_RING, slots); err != nil {
		return err
	}
	assembled, err := bpf.Assemble(filter)
	if err == nil {
		err = conn.SetBPF(assembled)
	}
	if err != nil {
		return fmt.Errorf("cannot set its filter: %w", err)
	}
	return g.rehook(ifi)
}

// rehook binds a socket anew whose interface was down at first. If that came up while the ring
// was made, newer kernels have missed it, and the socket would never get a frame: its protocol
// is 0 meanwhile (net/packet/af_packet.c, packet_set_ring and packet_notifier).
func (g *ring) rehook(ifi *net.Interface) error {
	code, err := unix.GetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || unix.Errno(code) != unix.ENETDOWN {
		return err
	}
	// Nothing is done where the protocol is the same.
	for _, protocol := range []uint16{unix.ETH_P_LOOPBACK, unix.ETH_P_ALL} {
		to := &unix.SockaddrLinklayer{Ifindex: ifi.Index, Protocol: protocol<<8 | protocol>>8}
		if err := unix.Bind(g.fd, to); err != nil {
			return fmt.Errorf("cannot bind it anew: %w", err)
		}
	}
	return nil
}

// large has frames come by the socket's queue that are larger than a slot, and an interface
// take those to one more address.
func large(fd, ifindex int, extra dataplane.MAC) error {
	if err := setOptions(fd, []option{{unix.PACKET_COPY_THRESH, 1, "PACKET_COPY_THRESH"}}); err != nil {
		return err
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
	if extra == (dataplane.MAC{}) {
		return nil
	}
	m := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_UNICAST, Alen: uint16(len(extra))}
	copy(m.Address[:], extra[:])
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
		return fmt.Errorf("cannot receive for the address %s: %w", net.HardwareAddr(extra[:]), err)
	}
	return nil
}

// option is one of a packet socket.
type option struct {
	number, value int
	name          string
}

func setOptions(fd int, options []option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.number, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
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
	if s.poll[1].Revents&unix.POLLERR != 0 {
		// The other socket has the same error. This takes it away, so that waits go on.
		_, _ = unix.GetsockoptInt(s.syns.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	}
	return s.poll[0].Revents&unix.POLLERR != 0
}

// interrupt ends all waits.
func (s *receiveSocket) interrupt() { _, _ = unix.Write(s.end, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (s *receiveSocket) close() {
	for _, mem := range [][]byte{s.mem, s.syns.mem} {
		if mem != nil {
			_ = unix.Munmap(mem)
		}
	}
	for _, fd := range []int{s.fd, s.syns.fd, s.end} {
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
		return nil, fmt.Errorf("cannot make a ring of %d KiB: %w", slots*slotSize>>10, err)
	}
	mem, err := unix.Mmap(fd, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map the ring: %w", err)
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
