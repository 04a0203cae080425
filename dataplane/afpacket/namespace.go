package afpacket

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is the network namespace that the plane was made in. Sockets are
// opened late, from any thread, and must not end up in another one.
type namespace struct{ fd int } // -1: that of the process

func currentNamespace() (namespace, error) {
	var here, process unix.Stat_t
	const self = "/proc/thread-self/ns/net"
	if err := unix.Stat(self, &here); err != nil {
		return namespace{}, fmt.Errorf("afpacket: cannot look at %s (is /proc mounted?): %w", self, err)
	}
	if err := unix.Stat("/proc/self/ns/net", &process); err == nil && here.Ino == process.Ino && here.Dev == process.Dev {
		return namespace{-1}, nil
	}
	fd, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return namespace{}, fmt.Errorf("afpacket: cannot open %s: %w", self, err)
	}
	return namespace{fd}, nil
}

// do runs f in the namespace.
func (n namespace) do(f func() error) error {
	if n.fd < 0 {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("afpacket: cannot enter the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (n namespace) close() {
	if n.fd >= 0 {
		_ = unix.Close(n.fd)
	}
}
