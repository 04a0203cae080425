package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire holds the packet sockets of a stage: one at the client, which also
// sends, and one at each real server. One goroutine uses it: what has arrived
// waits in the sockets until read, so that after a barrier one look is enough.
type wire struct {
	client *lab.Host
	ears   []ear // the client's first
	macs   map[netip.Addr]net.HardwareAddr
	buf    []byte
}

// ear is a socket, and who hears what arrives there.
type ear struct {
	fd   int
	host string // a server's name; "" is the client
	mac  net.HardwareAddr
}

func newWire(s *stage) (*wire, error) {
	w := &wire{client: s.client, macs: make(map[netip.Addr]net.HardwareAddr), buf: make([]byte, 1<<16)}
	for i, h := range append([]*lab.Host{s.client}, s.servers...) {
		e := ear{mac: h.MAC()}
		if i > 0 {
			e.host = h.Name()
		}
		err := h.Do(func() (err error) {
			e.fd, err = packetSocket(h.Index())
			return err
		})
		if err != nil {
			w.close()
			return nil, fmt.Errorf("packet socket in %s: %w", h.Name(), err)
		}
		w.ears = append(w.ears, e)
	}
	return w, nil
}

func packetSocket(ifindex int) (int, error) {
	// Protocol 0 receives nothing until bind says from which interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	// Not our own frames. A kernel before 4.20 shows them; they do no harm.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	// As much as the system allows: a batch must fit.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	addr := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: ifindex}
	if err := unix.Bind(fd, addr); err != nil {
		unix.Close(fd)
		return 0, os.NewSyscallError("bind", err)
	}
	return fd, nil
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
	deadline := time.Now().Add(2500 * time.Millisecond) // the first request may be lost, while links come up
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
func (w *wire) send(frames ...[]byte) error {
	for _, f := range frames {
		for {
			_, err := unix.Write(w.ears[0].fd, f)
			if err == nil {
				break
			}
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
				time.Sleep(time.Millisecond)
				continue
			}
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// hear gives what has arrived to the observer. What was not addressed to the
// host that heard it is left out: the bridge also floods frames to others.
func (w *wire) hear(o *observer) error {
	for _, e := range w.ears {
		for {
			n, err := unix.Read(e.fd, w.buf)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
				continue
			}
			if err != nil {
				return os.NewSyscallError("read from packet socket", err)
			}
			if n < etherLen || !bytes.Equal(w.buf[:6], e.mac) {
				continue
			}
			if e.host == "" {
				o.atClient(w.buf[:n])
			} else {
				o.atServer(e.host, w.buf[:n])
			}
		}
	}
	return nil
}

// wait waits until something arrives, at most for d.
func (w *wire) wait(d time.Duration) error {
	fds := make([]unix.PollFd, len(w.ears))
	for i, e := range w.ears {
		fds[i] = unix.PollFd{Fd: int32(e.fd), Events: unix.POLLIN}
	}
	_, err := unix.Poll(fds, int(max(d, time.Millisecond)/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

func (w *wire) close() {
	for _, e := range w.ears {
		unix.Close(e.fd)
	}
	w.ears = nil
}
