package xsk

import (
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BenchmarkForward takes frames from one interface to another in batches of
// 64, and says how much time of the CPU that takes a frame: of this thread,
// with what the kernel does in its system calls, up to the other end of the veth
// pair.
func BenchmarkForward(b *testing.B) {
	bed := newBed(b, 1500)
	bed.redirect("in0", link.XDPGenericMode)
	from := bed.sendSocket("in1")
	u := bed.umem(MemoryOptions{Frames: Options{}.Frames() * 2})
	in, out := bed.open(u, "in0", 0, Options{}), bed.open(u, "out0", 0, Options{})
	packets, one := make([]Packet, 64), frame(1, 60)
	var receiving, sending time.Duration
	frames := 0
	for b.Loop() {
		for range packets {
			_, _ = unix.Write(from, one)
		}
		start := threadTime()
		n := in.Receive(packets)
		received := threadTime()
		out.Transmit(packets[:n])
		receiving += received - start
		sending += threadTime() - received
		frames += n
	}
	b.ReportMetric(float64(receiving)/float64(frames), "ns/received")
	b.ReportMetric(float64(sending)/float64(frames), "ns/sent")
	if frames != 64*b.N {
		b.Errorf("%d frames of %d came in", frames, 64*b.N)
	}
	accounted(b, out, frames)
}

func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}
