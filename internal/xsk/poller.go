package xsk

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// nap bounds a wait while a socket has frames that it could not send yet, or
// no chunks to receive into: nothing else would end it.
const nap = time.Millisecond

// Poller waits for frames on several sockets. NewPoller makes one. Wait is for
// the goroutine that receives from them; End is safe for concurrent use.
type Poller struct {
	sockets []*Socket
	fds     []unix.PollFd // the sockets', then that of end
	timeout unix.Timespec

	ended atomic.Bool
	mu    sync.Mutex // guards end
	end   int        // an eventfd; -1 when closed
}

// NewPoller makes a Poller for sockets that must not be closed before it.
func NewPoller(sockets ...*Socket) (*Poller, error) {
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot make an eventfd: %w", err)
	}
	p := &Poller{sockets: sockets, end: end}
	for _, s := range sockets {
		p.fds = append(p.fds, unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN})
	}
	p.fds = append(p.fds, unix.PollFd{Fd: int32(end), Events: unix.POLLIN})
	return p, nil
}

// Wait returns when a socket has frames, after the timeout, or somewhat earlier
// for its own reasons; and false, at once, from End on. A negative timeout is
// none. Meanwhile it sends what is left in the sockets' transmit rings. It
// does not notice that an interface goes down or away: see Socket.Check.
func (p *Poller) Wait(timeout time.Duration) (bool, error) {
	if p.ended.Load() {
		return false, nil
	}
	for _, s := range p.sockets {
		if s.short.Load() {
			s.topUp()
		}
		if s.short.Load() || s.waits() {
			if timeout < 0 || timeout > nap {
				timeout = nap
			}
		}
	}
	limit := &p.timeout
	if timeout < 0 {
		limit = nil
	}
	p.timeout = unix.NsecToTimespec(int64(max(0, timeout)))
	// The kernel wakes drivers as it polls, where they need it (xsk_poll).
	if _, err := unix.Ppoll(p.fds, limit, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("cannot wait for frames: %w", err)
	}
	return !p.ended.Load(), nil
}

// waits is whether frames are left to be sent that may go soon. One that is
// transmitting sees to that itself.
func (s *Socket) waits() bool {
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	return !s.flush() && !s.off()
}

// End ends the Wait under way and all that follow.
func (p *Poller) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended.Store(true)
	if p.end >= 0 {
		_, _ = unix.Write(p.end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Close frees the Poller, not the sockets. No Wait may be under way: End, and
// wait for it.
func (p *Poller) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended.Store(true)
	if p.end < 0 {
		return nil
	}
	err := unix.Close(p.end)
	p.end = -1
	return err
}
