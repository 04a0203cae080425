package xsk

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Queue is one of an interface's, where a Socket is bound.
type Queue struct {
	Ifindex int // the kernel's index of the interface
	ID      int // from 0 on; ethtool -l says how many there are
}

// String names the interface, if the calling thread's network namespace has it.
func (q Queue) String() string {
	if ifi, err := net.InterfaceByIndex(q.Ifindex); err == nil {
		return fmt.Sprintf("queue %d of %s", q.ID, ifi.Name)
	}
	return fmt.Sprintf("queue %d of interface %d", q.ID, q.Ifindex)
}

// Options of a Socket. The zero value works: copy mode and rings for a busy
// interface.
type Options struct {
	// ZeroCopy has the driver read and write the memory itself. Where it
	// cannot, the kernel copies; Socket.Mode says what it came to.
	ZeroCopy bool
	// Receive, Fill, Transmit and Complete are the slots of the rings: powers
	// of two from 32 to 65536. 0 means 2048, 2048, 1024 and 1024. A driver
	// with zero copy takes as much as its own ring out of the fill ring, and
	// needs that much more memory.
	Receive, Fill, Transmit, Complete int
	// BusyPoll, if not 0, has Receive and Transmit run the driver's receiving
	// themselves for up to so long, in whole microseconds up to a second,
	// rather than wait for interrupts (SO_PREFER_BUSY_POLL; it needs
	// CAP_NET_ADMIN, napi_defer_hard_irqs and gro_flush_timeout, see af_xdp.rst).
	BusyPoll time.Duration
	// BusyPollBudget is how many frames each time: up to 65535; 0 means 64.
	BusyPollBudget int
	// BindWait is how long Open waits for a queue that is taken, since the
	// kernel lets go of a closed socket's queue a little later
	// (net/xdp/xsk_buff_pool.c, xp_put_pool). 0 means a second; if negative,
	// it does not wait.
	BindWait time.Duration
}

func (o Options) complete() (Options, error) {
	for _, x := range []struct {
		name    string
		slots   *int
		usually int
	}{
		{"receive", &o.Receive, 2048}, {"fill", &o.Fill, 2048}, {"transmit", &o.Transmit, 1024}, {"completion", &o.Complete, 1024},
	} {
		if *x.slots == 0 {
			*x.slots = x.usually
		}
		if n := *x.slots; n < 32 || n > 65536 || n&(n-1) != 0 {
			return o, fmt.Errorf("a %s ring of %d slots: give a power of two from 32 to 65536", x.name, n)
		}
	}
	if o.BusyPoll < 0 || o.BusyPoll > time.Second || o.BusyPoll%time.Microsecond != 0 {
		return o, fmt.Errorf("busy polling for %v: give whole microseconds up to a second", o.BusyPoll)
	}
	if o.BusyPollBudget == 0 {
		o.BusyPollBudget = 64
	}
	if o.BusyPollBudget < 0 || o.BusyPollBudget > 65535 {
		return o, fmt.Errorf("busy polling %d frames: give 1 to 65535", o.BusyPollBudget)
	}
	if o.BindWait == 0 {
		o.BindWait = time.Second
	}
	return o, nil
}

// Frames is how many chunks a socket with these options has at most, without
// those that its caller has and those that a zero-copy driver keeps.
func (o Options) Frames() int {
	o, _ = o.complete()
	return o.Receive + o.Fill + o.Transmit + o.Complete
}

// Socket is an AF_XDP socket bound to a queue. Umem.Open makes one.
//
// Receive is for one goroutine at a time, and Close must not run beside it or
// beside a Poller's Wait. All else is safe for concurrent use, also after
// Close.
type Socket struct {
	umem     *Umem
	queue    Queue
	fd       int
	zeroCopy bool
	whyCopy  error
	busy     bool // polls busily

	// Of the goroutine that receives.
	rx    ring[unix.XDPDesc]
	fill  ring[uint64]
	rxHas []bool   // chunks between fill and rx
	list  []uint32 // scratch

	mu     sync.Mutex // guards what follows
	tx     ring[unix.XDPDesc]
	done   ring[uint64] // the completion ring
	txHas  []bool       // chunks between tx and done
	back   []uint32     // scratch
	txErr  unix.Errno   // what the kernel said to the last attempt to send
	closed bool
	last   unix.XDPStatistics // at Close

	c counters
	// short is set while the fill ring lacks chunks for want of memory.
	short atomic.Bool
}

// Open opens a socket on a queue of an interface of the calling thread's
// network namespace. Nothing is received until the socket is in an XSKMAP
// (FD) to which an XDP program on that interface redirects frames of that
// queue. The kernel sends by the queue of the same number; where there is none,
// it sends nothing, and Transmit drops frames once its ring is full.
//
// Where the kernel allows, sockets share one registration of the memory
// (XDP_SHARED_UMEM), each with a fill and a completion ring of its own
// (net/xdp/xsk.c, xsk_bind). Those with and those without zero copy cannot, and
// register it once for each kind.
//
// Errors wrap the kernel's: EPERM without the privilege, ENODEV and EINVAL for
// an interface or a queue that is not there, EBUSY for one that another socket
// has, ENOBUFS for more memory than RLIMIT_MEMLOCK allows.
func (u *Umem) Open(q Queue, o Options) (*Socket, error) {
	u.opening.Lock()
	defer u.opening.Unlock()
	o, err := o.complete()
	if err == nil {
		err = u.admit(q, o)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open a socket on %v: %w", q, err)
	}
	deadline := time.Now().Add(o.BindWait)
	var s *Socket
	var refused error
	if o.ZeroCopy {
		s, refused = u.openMode(q, o, true, deadline)
	}
	if s == nil {
		if s, err = u.openMode(q, o, false, deadline); err != nil {
			return nil, fmt.Errorf("cannot open a socket on %v: %w", q, err)
		}
		s.whyCopy = refused
	}
	u.add(s)
	s.topUp()
	return s, nil
}

// openMode opens a socket with or without zero copy. It shares a registration
// with any that is open and has not lost its interface (EBADF).
func (u *Umem) openMode(q Queue, o Options, zeroCopy bool, deadline time.Time) (*Socket, error) {
	for _, peer := range *u.sockets.Load() {
		if peer.zeroCopy != zeroCopy {
			continue
		}
		if s, err := u.open(q, o, zeroCopy, peer, deadline); !errors.Is(err, unix.EBADF) {
			return s, err
		}
	}
	return u.open(q, o, zeroCopy, nil, deadline)
}

func (u *Umem) open(q Queue, o Options, zeroCopy bool, peer *Socket, deadline time.Time) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, explain(os.NewSyscallError("socket", err))
	}
	s := &Socket{
		umem: u, queue: q, fd: fd, zeroCopy: zeroCopy, busy: o.BusyPoll > 0,
		rxHas: make([]bool, u.Frames()), txHas: make([]bool, u.Frames()),
		list: make([]uint32, 0, o.Fill), back: make([]uint32, 0, o.Complete),
	}
	address := &unix.SockaddrXDP{Ifindex: uint32(q.Ifindex), QueueID: uint32(q.ID)}
	switch {
	case peer != nil:
		// Flags are the peer's (xp_assign_dev_shared).
		address.Flags, address.SharedUmemFD = unix.XDP_SHARED_UMEM, uint32(peer.fd)
	case zeroCopy:
		address.Flags = unix.XDP_ZEROCOPY | unix.XDP_USE_NEED_WAKEUP
	default:
		address.Flags = unix.XDP_COPY | unix.XDP_USE_NEED_WAKEUP
	}
	if peer == nil {
		err = register(fd, u.mem, 1<<u.shift)
	}
	if err == nil {
		err = s.makeRings(o)
	}
	if err == nil {
		err = s.bind(address, deadline)
	}
	if err == nil {
		err = s.tune(o)
	}
	if err != nil {
		s.unmap()
		_ = unix.Close(fd)
		return nil, explain(err)
	}
	return s, nil
}

func (s *Socket) makeRings(o Options) error {
	for _, x := range []struct{ option, slots int }{
		{unix.XDP_UMEM_FILL_RING, o.Fill}, {unix.XDP_UMEM_COMPLETION_RING, o.Complete},
		{unix.XDP_RX_RING, o.Receive}, {unix.XDP_TX_RING, o.Transmit},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_XDP, x.option, x.slots); err != nil {
			return fmt.Errorf("cannot make a ring of %d: %w", x.slots, err)
		}
	}
	at, err := option[unix.XDPMmapOffsets](s.fd, unix.XDP_MMAP_OFFSETS)
	if err != nil {
		return err
	}
	var errs [4]error
	s.fill, errs[0] = mapRing[uint64](s.fd, unix.XDP_UMEM_PGOFF_FILL_RING, at.Fr, o.Fill)
	s.done, errs[1] = mapRing[uint64](s.fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, at.Cr, o.Complete)
	s.rx, errs[2] = mapRing[unix.XDPDesc](s.fd, unix.XDP_PGOFF_RX_RING, at.Rx, o.Receive)
	s.tx, errs[3] = mapRing[unix.XDPDesc](s.fd, unix.XDP_PGOFF_TX_RING, at.Tx, o.Transmit)
	return errors.Join(errs[:]...)
}

func (s *Socket) bind(address *unix.SockaddrXDP, deadline time.Time) error {
	for {
		err := unix.Bind(s.fd, address)
		if !errors.Is(err, unix.EBUSY) || !time.Now().Before(deadline) {
			return os.NewSyscallError("bind", err)
		}
		time.Sleep(time.Millisecond)
	}
}

// tune sets what makes sending and receiving faster.
func (s *Socket) tune(o Options) error {
	// Frames on their way are charged to the socket with their sk_buff, up to
	// a page and its header each.
	const each = 4096 + 1024
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, o.Complete*each) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, o.Complete*each)
	}
	// In copy mode a system call sends 32 frames (TX_BATCH_SIZE), or as many
	// as this says since Linux 6.17 (xsk_setsockopt).
	_ = unix.SetsockoptInt(s.fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, o.Transmit)
	if !s.busy {
		return nil
	}
	for _, x := range []struct{ option, value int }{
		{unix.SO_PREFER_BUSY_POLL, 1},
		{unix.SO_BUSY_POLL, int(o.BusyPoll / time.Microsecond)},
		{unix.SO_BUSY_POLL_BUDGET, o.BusyPollBudget},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, x.option, x.value); err != nil {
			return fmt.Errorf("busy polling (it needs CAP_NET_ADMIN and CONFIG_NET_RX_BUSY_POLL): %w", err)
		}
	}
	return nil
}
