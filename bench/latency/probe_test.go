package latency

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// probe is both ends of connections: one thread asks as the client, takes the question as the
// real server, answers, and takes the answer. So what is measured is the path, and not how long
// another thread takes to wake up. It polls busily; after a millisecond without success it
// lets others have the CPU, a millisecond at a time.
type probe struct {
	listener int // the real server's
	to       unix.SockaddrInet4
	buf      [size]byte
	rested   time.Time // when the scheduler of Go last ran
}

// size is how much is asked and answered.
const size = 64

const (
	spin     = time.Millisecond
	patience = time.Minute
	lost     = time.Second // an RST is, after that
	// rest is how long the probe goes on before it lets Go's scheduler run, between two samples:
	// after ten milliseconds that would interrupt it within one (runtime/proc.go, forcePreemptNS).
	rest = 4 * time.Millisecond
)

// pair is an established connection's two ends.
type pair struct{ client, server int }

// probing runs f on a thread of its own, in the client's namespace and on the probe's CPU,
// without garbage collection. preempted is how often another thread got that CPU, which on a
// quiet machine are few.
func (s *site) probing(vip netip.Addr, f func(*probe) error) (preempted int) {
	s.Helper()
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	p := &probe{listener: s.listener, to: unix.SockaddrInet4{Port: port, Addr: vip.As4()}}
	err := s.client.Do(func() error {
		back, err := pin()
		if err != nil {
			return err
		}
		defer back()
		var before, after unix.Rusage
		err = errors.Join(unix.Getrusage(unix.RUSAGE_THREAD, &before), f(p), unix.Getrusage(unix.RUSAGE_THREAD, &after))
		preempted = int(after.Nivcsw - before.Nivcsw)
		return err
	})
	if err != nil {
		s.Fatalf("%v: %v", vip, err)
	}
	return preempted
}

// roundTrips makes a connection and asks so often.
func (p *probe) roundTrips(n int) (took []time.Duration, err error) {
	took = make([]time.Duration, 0, n)
	err = p.converse(func(d time.Duration) bool {
		took = append(took, d)
		return len(took) < n
	})
	return took, err
}

// converse makes a connection and asks for as long as the one that hears of each round trip
// wants it.
func (p *probe) converse(more func(time.Duration) bool) error {
	c, _, err := p.connect()
	if err != nil {
		return err
	}
	defer c.close()
	for n := 0; ; n++ {
		d, err := p.roundTrip(c)
		if err != nil {
			return fmt.Errorf("after %d round trips: %w", n, err)
		}
		if !more(d) {
			return nil
		}
		p.pause()
	}
}

// connects opens connections, one after the other.
func (p *probe) connects(n int) (took []time.Duration, err error) {
	took = make([]time.Duration, 0, n)
	for range n {
		c, d, err := p.connect()
		if err != nil {
			return nil, fmt.Errorf("after %d connections: %w", len(took), err)
		}
		if err := p.reset(c); err != nil {
			return nil, fmt.Errorf("after %d connections: %w", len(took), err)
		}
		took = append(took, d)
		p.pause()
	}
	return took, nil
}

// pause lets Go's scheduler run, where it is time.
func (p *probe) pause() {
	if now := time.Now(); now.Sub(p.rested) > rest {
		runtime.Gosched()
		p.rested = time.Now()
	}
}

func (p *probe) roundTrip(c pair) (time.Duration, error) {
	began := time.Now()
	for _, way := range [2][2]int{{c.client, c.server}, {c.server, c.client}} {
		if _, err := unix.Write(way[0], p.buf[:]); err != nil {
			return 0, fmt.Errorf("write: %w", err)
		}
		for got := 0; got < size; {
			n, err := unix.Read(way[1], p.buf[got:])
			switch {
			case err == nil && n > 0:
				got += n
			case err != nil && !errors.Is(err, unix.EAGAIN):
				return 0, fmt.Errorf("read: %w", err)
			case err == nil:
				return 0, errors.New("read: the connection has ended")
			default:
				if err := await(began, way[1], unix.POLLIN); err != nil {
					return 0, err
				}
			}
		}
	}
	return time.Since(began), nil
}

// await is between two attempts: it returns at once in the first millisecond.
func await(began time.Time, fd int, events int16) error {
	took := time.Since(began)
	if took > patience {
		return fmt.Errorf("nothing has come within %v", patience)
	}
	if took < spin {
		return nil
	}
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 1)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// connect opens a connection. took is how long it is from connect() until the socket is
// writable; the real server accepts it afterwards.
func (p *probe) connect() (c pair, took time.Duration, err error) {
	c.client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return c, 0, err
	}
	ready := []unix.PollFd{{Fd: int32(c.client), Events: unix.POLLOUT}}
	began := time.Now()
	if err := unix.Connect(c.client, &p.to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return c, 0, fmt.Errorf("connect: %w", err)
	}
	for {
		if n, err := unix.Poll(ready, 0); err != nil && !errors.Is(err, unix.EINTR) {
			return c, 0, fmt.Errorf("poll: %w", err)
		} else if n > 0 {
			break
		}
		if err := await(began, c.client, unix.POLLOUT); err != nil {
			return c, 0, fmt.Errorf("connect: %w", err)
		}
	}
	took = time.Since(began)
	if no, err := unix.GetsockoptInt(c.client, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || no != 0 {
		return c, 0, fmt.Errorf("connect: %w", errors.Join(err, unix.Errno(no)))
	}
	for {
		c.server, _, err = unix.Accept4(p.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EAGAIN) {
			return c, 0, fmt.Errorf("accept: %w", err)
		}
		if err := await(began, p.listener, unix.POLLIN); err != nil {
			return c, 0, fmt.Errorf("accept: %w", err)
		}
	}
	for _, fd := range []int{c.client, c.server} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return c, 0, err
		}
	}
	return c, took, nil
}

// reset ends a connection by the client's RST, so that its port is free at once, and sees it
// arrive, so that it is not on its way when the next connection is. One that was lost is not sent
// again.
func (p *probe) reset(c pair) error {
	if err := unix.SetsockoptLinger(c.client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	_ = unix.Close(c.client)
	defer unix.Close(c.server)
	for began := time.Now(); ; {
		_, err := unix.Read(c.server, p.buf[:])
		if errors.Is(err, unix.ECONNRESET) || time.Since(began) > lost {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("a reset has not come, but %w", err)
		}
		if err := await(began, c.server, unix.POLLIN); err != nil {
			return fmt.Errorf("a reset: %w", err)
		}
	}
}

func (c pair) close() {
	_ = unix.SetsockoptLinger(c.client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(c.client)
	_ = unix.Close(c.server)
}
