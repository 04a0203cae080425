package xsk

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// bed is a network namespace, which is that of the test's goroutine, with veth
// pairs: the sockets are on in0 and out0, and the test on in1 and out1.
type bed struct {
	testing.TB
	mtu  int
	maps map[string]*ebpf.Map
}

func newBed(t testing.TB, mtu int) *bed {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test's goroutine
	b := &bed{TB: t, mtu: mtu, maps: make(map[string]*ebpf.Map)}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("cannot make a network namespace: %v: run as root", err)
	}
	// No packets but ours.
	b.must(os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644))
	b.pair("in", 100, 1)
	b.pair("out", 200, 1)
	return b
}

// pair adds a veth pair. Ours has two queues each way; the number of those by
// which the other end sends, which are ours to receive from, is given: with
// more than one, kernels choose in their own ways. The indexes are different,
// since the kernel takes up to a second over a link whose peer has its own.
func (b *bed) pair(name string, index, sending int) {
	b.Helper()
	b.ip("link add %[1]s0 mtu %[2]d numtxqueues 2 numrxqueues 2 type veth peer name %[1]s1 mtu %[2]d numtxqueues %[4]d numrxqueues 2 index %[3]d", name, b.mtu, index, sending)
	b.ip("link set %s0 up", name)
	b.ip("link set %s1 up", name)
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) ip(format string, args ...any) {
	b.Helper()
	if out, err := exec.Command("ip", strings.Fields(fmt.Sprintf(format, args...))...).CombinedOutput(); err != nil {
		b.Fatalf("ip "+format+": %v\n%s", append(args, err, out)...)
	}
}

func (b *bed) index(name string) int {
	b.Helper()
	ifi, err := net.InterfaceByName(name)
	b.must(err)
	return ifi.Index
}

// redirect attaches a program that gives all frames to the interface's sockets.
func (b *bed) redirect(name string, flags link.XDPAttachFlags) {
	b.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 2})
	if errors.Is(err, unix.EPERM) {
		b.Skipf("BPF is not permitted: %v", err)
	}
	b.must(err)
	b.Cleanup(func() { m.Close() })
	const queueIndex = 16 // offsetof(struct xdp_md, rx_queue_index)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, queueIndex, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R3, 1), // XDP_DROP where there is no socket
		asm.FnRedirectMap.Call(),
		asm.Return(),
	}})
	b.must(err)
	b.Cleanup(func() { prog.Close() })
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: b.index(name), Flags: flags})
	b.must(err)
	b.Cleanup(func() { l.Close() })
	b.maps[name] = m
}

func (b *bed) umem(o MemoryOptions) *Umem {
	b.Helper()
	u, err := NewUmem(o)
	b.must(err)
	b.Cleanup(func() { b.must(u.Close()) })
	return u
}

// open opens a socket, and has it receive if the interface has a program.
func (b *bed) open(u *Umem, name string, queue int, o Options) *Socket {
	b.Helper()
	s, err := u.Open(Queue{b.index(name), queue}, o)
	b.must(err)
	b.Cleanup(func() { b.must(s.Close()) })
	if m := b.maps[name]; m != nil {
		b.must(m.Put(uint32(queue), uint32(s.FD())))
	}
	return s
}

// packetSocket is an ordinary one on an interface, that receives all.
func (b *bed) packetSocket(name string) int {
	b.Helper()
	return b.boundSocket(name, unix.ETH_P_ALL)
}

// sendSocket is one that only sends.
func (b *bed) sendSocket(name string) int {
	b.Helper()
	return b.boundSocket(name, 0)
}

func (b *bed) boundSocket(name string, protocol uint16) int {
	b.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	b.must(err)
	b.Cleanup(func() { unix.Close(fd) })
	b.must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	b.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	b.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	b.must(unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: b.index(name), Protocol: protocol<<8 | protocol>>8}))
	return fd
}

// frame is the i-th one, of so many bytes.
func frame(i, size int) []byte {
	f := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, make([]byte, size-shortest)...)
	for j := shortest; j < size; j++ {
		f[j] = byte(i>>(8*(j%3)) + j)
	}
	return f
}

// send gives frames to an interface's other end.
func (b *bed) send(fd int, frames ...[]byte) {
	b.Helper()
	for _, f := range frames {
		if _, err := unix.Write(fd, f); err != nil {
			b.Fatalf("sending %d bytes: %v", len(f), err)
		}
	}
}

// receive takes n frames in, in as many calls as that takes.
func (b *bed) receive(s *Socket, n int) []Packet {
	b.Helper()
	packets := make([]Packet, n)
	got := 0
	eventually(b, "the frames come in", func() bool {
		got += s.Receive(packets[got:])
		return got == n
	})
	return packets
}

// expect reads frames off an interface.
func (b *bed) expect(fd int, frames ...[]byte) {
	b.Helper()
	buf := make([]byte, 65536)
	for i, want := range frames {
		n, err := unix.Read(fd, buf)
		for err == unix.EINTR { // by a signal of Go's scheduler
			n, err = unix.Read(fd, buf)
		}
		if err != nil {
			b.Fatalf("frame %d of %d: %v", i, len(frames), err)
		}
		if !bytes.Equal(buf[:n], want) {
			b.Fatalf("frame %d of %d: got %d bytes\n%x\nwant %d\n%x", i, len(frames), n, buf[:n], len(want), want)
		}
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); {
		if time.Now().After(end) {
			t.Fatalf("it never came true that %s", what)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// sent is whether the kernel has given back all that a socket sent.
func sent(s *Socket) bool { return s.Flush() && !slices.Contains(s.txHas, true) }

// audit checks that each chunk of the memory has exactly one owner: the free
// list, one ring of one socket, or one of the packets. Nothing may go on
// meanwhile.
func audit(t testing.TB, u *Umem, packets ...Packet) {
	t.Helper()
	owners := make([][]string, u.Frames())
	own := func(c uint32, who string) { owners[c] = append(owners[c], who) }
	for _, c := range u.free {
		own(c, "free")
	}
	for q, chunks := range u.stranded {
		for _, c := range chunks {
			own(c, "stranded at "+q.String())
		}
	}
	for _, p := range packets {
		if p.chunk != 0 {
			own(p.chunk-1, "the caller")
		}
	}
	for _, s := range *u.sockets.Load() {
		receiving := 0
		for c := range u.Frames() {
			if s.rxHas[c] {
				receiving++
				own(uint32(c), "receiving on "+s.queue.String())
			}
			if s.txHas[c] {
				own(uint32(c), "transmitting on "+s.queue.String())
			}
		}
		// A frame for which the receive ring had no room leaves its chunk with
		// the kernel (net/xdp/xsk_buff_pool.c, xp_free).
		if inRings := s.fill.used() + s.rx.ready(); receiving-inRings < 0 || receiving-inRings > 1 {
			t.Errorf("%v: %d chunks to receive, in the rings are %d", s.queue, receiving, inRings)
		}
		if c := s.Counters(); c["strange"]+c["rx_invalid"]+c["tx_invalid"] != 0 {
			t.Errorf("%v: %v", s.queue, c)
		}
	}
	for c, who := range owners {
		if len(who) != 1 {
			t.Errorf("chunk %d has the owners %q", c, who)
		}
	}
}

// accounted checks that each frame that was given to a socket to send is in
// one counter, of a socket that has none left.
func accounted(t testing.TB, s *Socket, given int) {
	t.Helper()
	c := s.Counters()
	sum := c["tx_frames"] + c["tx_dropped"] + c["tx_ring_full"] + c["tx_buffers"] + c["tx_down"] + c["tx_malformed"] + c["tx_no_chunk"]
	if sum != uint64(given) {
		t.Errorf("%v: %d frames were given, of which %d are counted: %v", s.queue, given, sum, c)
	}
}
