package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// stdin is an input that says whether it has to be waited for. It is read on while what it
// had is worked on, so that the lines of a pipe come in ever larger batches.
type stdin struct {
	file  *os.File
	begin sync.Once

	mu   sync.Mutex
	more *sync.Cond
	data []byte // that was not asked for yet
	err  error  // that comes after it
}

// stdinMost is how far it is read on.
const stdinMost = 16 << 20

func newStdin(f *os.File) *stdin {
	s := &stdin{file: f}
	s.more = sync.NewCond(&s.mu)
	return s
}

// pump reads the file to its end. It waits without the lock and reads under it, so that what was
// written is always in the file or in data, and never on its way where Ready does not see it.
func (s *stdin) pump() {
	block := make([]byte, 64<<10)
	for {
		s.poll(-1)
		s.mu.Lock()
		n, err := s.file.Read(block)
		s.data, s.err = append(s.data, block[:n]...), err
		s.more.Broadcast()
		for len(s.data) > stdinMost {
			s.more.Wait()
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader.
func (s *stdin) Read(b []byte) (int, error) {
	s.begin.Do(func() { go s.pump() })
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.data) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.more.Wait()
	}
	n := copy(b, s.data)
	if s.data = s.data[n:]; len(s.data) == 0 {
		s.data = nil
	}
	s.more.Broadcast()
	return n, nil
}

// Ready reports whether there is something to be read, or the end.
func (s *stdin) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.data) > 0 || s.err != nil || s.poll(0)
}

// poll reports whether the file has something or has ended, and waits for it for as many
// milliseconds, for ever with -1.
func (s *stdin) poll(wait int) bool {
	fds := []unix.PollFd{{Fd: int32(s.file.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, wait)
		if err != unix.EINTR {
			return n > 0 && err == nil
		}
	}
}

var _ io.Reader = (*stdin)(nil)
