package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire holds the packet sockets of a stage: one at the client, which also
// sends, and one at each real server.
type wire struct {
	client  *lab.Host
	tx      *os.File
	sockets []*os.File
	readers sync.WaitGroup
	macs    map[netip.Addr]net.HardwareAddr
}

// newWire starts to listen; what arrives goes to o.
func newWire(s *stage, o *observer) (*wire, error) {
	w := &wire{client: s.client, macs: make(map[netip.Addr]net.HardwareAddr)}
	tx, err := w.listen(s.client, o.atClient)
	if err != nil {
		return nil, err
	}
	w.tx = tx
	for _, h := range s.servers {
		if _, err := w.listen(h, func(frame []byte) { o.atServer(h.Name(), frame) }); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

// listen gives the frames that are addressed to the host to f.
func (w *wire) listen(h *lab.Host, f func([]byte)) (*os.File, error) {
	var socket *os.File
	err := h.Do(func() (err error) {
		socket, err = packetSocket(h.Index())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket in %s: %w", h.Name(), err)
	}
	w.sockets = append(w.sockets, socket)
	mac := h.MAC()
	w.readers.Add(1)
	go func() {
		defer w.readers.Done()
		buf := make([]byte, 1<<16)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return // closed
			}
			// The bridge also floods frames to others' addresses.
			if n >= etherLen && bytes.Equal(buf[:6], mac) {
				f(buf[:n])
			}
		}
	}()
	return socket, nil
}

func packetSocket(ifindex int) (*os.File, error) {
	// Protocol 0 receives nothing until bind says from which interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Not our own frames. A kernel before 4.20 shows them; they do no harm.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	// As much as the system allows: a batch must fit.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	addr := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: ifindex}
	if err := unix.Bind(fd, addr); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

// bigEndian is htons(3).
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// errUnresolved says that nobody answered for an address.
var errUnresolved = errors.New("no answer to ARP or neighbour solicitation")

// resolve asks the client's kernel for the link address of a neighbour, as any
// real client would. Only success is remembered.
func (w *wire) resolve(a netip.Addr) (net.HardwareAddr, error) {
	if mac, ok := w.macs[a]; ok {
		return mac, nil
	}
	nl := w.client.Netlink()
	deadline := time.Now().Add(time.Second)
	for first := true; time.Now().Before(deadline); first = false {
		if first {
			// "Use" makes the kernel resolve without sending a packet.
			err := nl.NeighSet(&netlink.Neigh{LinkIndex: w.client.Index(), IP: a.AsSlice(), Flags: netlink.NTF_USE})
			if err != nil {
				return nil, fmt.Errorf("resolve %v: %w", a, err)
			}
		}
		neighs, err := nl.NeighList(w.client.Index(), 0)
		if err != nil {
			return nil, fmt.Errorf("resolve %v: %w", a, err)
		}
		for _, n := range neighs {
			const good = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
			if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == a && n.State&good != 0 {
				w.macs[a] = n.HardwareAddr
				return n.HardwareAddr, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, errUnresolved
}

// send sends frames in order.
func (w *wire) send(frames [][]byte) error {
	for _, f := range frames {
		if _, err := w.tx.Write(f); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

func (w *wire) close() {
	for _, s := range w.sockets {
		s.Close()
	}
	w.readers.Wait()
}
