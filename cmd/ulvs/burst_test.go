package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A burst of SYNs from random sources, faster than the daemon decides about them,
// costs established connections nothing, and the daemon no memory; what was shed
// can be seen.
func TestBurst(t *testing.T) {
	for _, sockets := range []string{"off", "on"} {
		t.Run("af-xdp "+sockets, func(t *testing.T) { burst(t, sockets) })
	}
}

func burst(t *testing.T, sockets string) {
	const (
		flows   = 200
		growth  = 16 << 20 // of the daemon's memory, at most
		lasts   = 200000   // SYNs
		between = 50       // of them for each packet of a connection
	)
	s := newPinSite(t)
	daemon := s.start("--interface", "eth0", "--plane", *fast, "--af-xdp", sockets, "--connections", "20000")
	if runtime.NumCPU() > 1 {
		pin(t, daemon.Process.Pid, 1)
	}
	s.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s rr
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.201 -g
	`)
	number := uint32(1)
	for flow := range uint32(flows) {
		s.send(s.frame(flow, 80, "S", number))
		s.send(s.frame(flow, 80, "A", number+1))
		number += 2
	}
	server := s.got(1, 2*flows)

	before := resident(t, daemon.Process.Pid)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var was, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		t.Fatal(err)
	}
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &was) }()
	// A raw socket of this thread's own: what it sends, the program sees before the
	// call returns.
	fd := rawSocket(t, s)
	rng := rand.New(rand.NewPCG(1, 2))
	syn := s.frame(0, 80, "S", 0)
	packets := make([][]byte, flows)
	for flow := range packets {
		packets[flow] = s.frame(uint32(flow), 80, "PA", 0)
	}
	first, syns := number, 0
	began := time.Now()
	for syns < lasts {
		for range between {
			source(syn, 11<<24|rng.Uint32N(1<<24), uint16(rng.Uint32N(1<<16)))
			binary.BigEndian.PutUint32(syn[frameSize-4:], 1<<31|uint32(syns))
			if _, err := unix.Write(fd, syn); err != nil {
				t.Fatal(err)
			}
			syns++
		}
		f := packets[number%flows]
		binary.BigEndian.PutUint32(f[frameSize-4:], number)
		if _, err := unix.Write(fd, f); err != nil {
			t.Fatal(err)
		}
		number++
	}
	took := time.Since(began)
	memory := resident(t, daemon.Process.Pid)
	for i, at := range s.got(first, int(number-first)) {
		if want := server[(int(first)+i)%flows*2]; at != want {
			t.Fatalf("packet %d went to server %d, not %d", i, at, want)
		}
	}
	status := s.status()
	shed := status["drop_connections_full"] + status["half_open_evicted"] + status["af_xdp_rx_dropped"] +
		status["af_xdp_rx_ring_full"] + status["rx_ring_lost"] + status["rx_syn_lost"]
	t.Logf("%d SYNs, %.0f a second; %d packets of connections; %d MiB resident, %d before; %d made room; shed: %d by the full table, %d+%d by sockets, %d by the rings",
		syns, float64(syns)/took.Seconds(), number-first, memory>>20, before>>20, status["half_open_evicted"], status["drop_connections_full"],
		status["af_xdp_rx_dropped"], status["af_xdp_rx_ring_full"], status["rx_ring_lost"]+status["rx_syn_lost"])
	if memory-before > growth {
		t.Errorf("the daemon's memory grew by %d MiB", (memory-before)>>20)
	}
	if shed == 0 {
		t.Error("nothing was shed or made room: the burst was no burst")
	}
	if status["connections"] > 20000 {
		t.Errorf("%d connections", status["connections"])
	}
}

// source gives a TCP packet another source; both checksums are kept up (RFC 1624).
func source(frame []byte, addr uint32, port uint16) {
	var was, is [6]byte
	copy(was[:], frame[26:30])
	copy(was[4:], frame[34:36])
	binary.BigEndian.PutUint32(is[:], addr)
	binary.BigEndian.PutUint16(is[4:], port)
	update := func(at, n int) {
		sum := uint32(^binary.BigEndian.Uint16(frame[at:]))
		for i := 0; i < n; i += 2 {
			sum += uint32(^binary.BigEndian.Uint16(was[i:])) + uint32(binary.BigEndian.Uint16(is[i:]))
		}
		sum = sum&0xffff + sum>>16
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(frame[at:], ^uint16(sum))
	}
	update(24, 4)
	update(50, 6)
	copy(frame[26:30], is[:4])
	copy(frame[34:36], is[4:])
}

// rawSocket sends frames out of the client's interface.
func rawSocket(t *testing.T, s *pinSite) (fd int) {
	t.Helper()
	if err := s.client.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.client.Index()})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// pin has a process's threads run on one CPU.
func pin(t *testing.T, pid, cpu int) {
	t.Helper()
	var one unix.CPUSet
	one.Set(cpu)
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range threads {
		id, _ := strconv.Atoi(filepath.Base(path))
		_ = unix.SchedSetaffinity(id, &one) // it may have ended
	}
}

// resident is how much memory of its own a process has, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
