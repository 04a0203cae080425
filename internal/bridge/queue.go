package bridge

import (
	"errors"

	"golang.org/x/sys/unix"
)

// sender is a socket of the supervisor's in a network namespace, by which answers are sent.
type sender struct {
	fd   int
	port uint32 // its own: what comes from it is an answer of ours
}

// queue are the answers to a program's socket that have no room in it yet.
type queue struct {
	to      uint32
	sender  *sender
	waiting [][]byte
}

// senderIn returns the sender of a network namespace, of which number is the kernel's. The caller
// holds mu, until it has sent.
func (s *supervisor) senderIn(number uint64, netns int) (*sender, error) {
	if one := s.senders[number]; one != nil {
		return one, nil
	}
	s.spare()
	one := &sender{fd: -1}
	err := within(netns, func() (err error) {
		one.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
		return err
	})
	if err != nil {
		return nil, err
	}
	k := kernelSocket{fd: one.fd}
	if err := k.ready(); err != nil {
		_ = unix.Close(one.fd)
		return nil, err
	}
	one.port = k.port
	s.senders[number] = one
	return one, nil
}

// mostSenders bounds the senders, each of which keeps its network namespace.
const mostSenders = 16

// spare closes the senders that have nothing to send, where there are many. The caller holds mu.
func (s *supervisor) spare() {
	if len(s.senders) < mostSenders {
		return
	}
	busy := map[*sender]bool{}
	for cookie, q := range s.queues {
		if s.pump(cookie) {
			busy[q.sender] = true
		}
	}
	for number, one := range s.senders {
		if !busy[one] {
			_ = unix.Close(one.fd)
			delete(s.senders, number)
		}
	}
}

// known returns a namespace's sender, if there is one.
func (s *supervisor) known(number uint64) *sender {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.senders[number]
}

// mostWaiting bounds the bytes of answers that wait for a socket: its program does not read them.
const mostWaiting = 16 << 20

// full reports whether so much waits for a socket that it may not ask for more.
func (s *supervisor) full(cookie uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.pump(cookie) {
		return false
	}
	bytes := 0
	for _, d := range s.queues[cookie].waiting {
		bytes += len(d)
	}
	return bytes > mostWaiting
}

// deliver sends answers to a socket in a network namespace, and keeps those for which it has no
// room. Those of sockets that were closed meanwhile go.
func (s *supervisor) deliver(k kernelSocket, netns int, list [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cookie := range s.queues {
		s.pump(cookie)
	}
	q := s.queues[k.cookie]
	if q == nil {
		from, err := s.senderIn(k.netns, netns)
		if err != nil {
			return err
		}
		q = &queue{to: k.port, sender: from}
		s.queues[k.cookie] = q
	}
	q.waiting = append(q.waiting, list...)
	s.pump(k.cookie)
	return nil
}

// fill gives a socket what waits for it, as far as it has room. It reports whether more waits.
func (s *supervisor) fill(cookie uint64) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pump(cookie)
}

// pump is fill; the caller holds mu. What nobody can have any more is forgotten.
func (s *supervisor) pump(cookie uint64) (more bool) {
	q := s.queues[cookie]
	if q == nil {
		return false
	}
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: q.to}
	for len(q.waiting) > 0 {
		err := unix.Sendto(q.sender.fd, q.waiting[0], unix.MSG_DONTWAIT, to)
		if errors.Is(err, unix.EAGAIN) {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			break // it is closed
		}
		if err == nil {
			q.waiting = q.waiting[1:]
		}
	}
	delete(s.queues, cookie)
	return false
}
