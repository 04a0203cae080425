package afpacket

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is the network namespace that the plane was made in. Sockets are
// opened late, from any thread, and must not end up in another one.
type namespace struct{ fd int }

// ofThread is the calling thread's namespace. /proc/self would be the main
// thread's, which may be in any namespace: goroutines run there too.
const ofThread = "/proc/thread-self/ns/net"

func currentNamespace() (namespace, error) {
	fd, err := unix.Open(ofThread, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return namespace{}, fmt.Errorf("cannot open %s (is /proc mounted?): %w", ofThread, err)
	}
	return namespace{fd}, nil
}

// do runs f in the namespace. A thread that is there already needs no
// CAP_SYS_ADMIN, which entering does.
func (n namespace) do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := n.here()
	if err != nil {
		return err
	}
	if here {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("cannot enter the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// here reports whether the calling thread is in the namespace.
func (n namespace) here() (bool, error) {
	var here, there unix.Stat_t
	if err := unix.Stat(ofThread, &here); err != nil {
		return false, fmt.Errorf("cannot look at %s (is /proc mounted?): %w", ofThread, err)
	}
	if err := unix.Fstat(n.fd, &there); err != nil {
		return false, fmt.Errorf("cannot look at the plane's network namespace: %w", err)
	}
	return here.Ino == there.Ino && here.Dev == there.Dev, nil
}

func (n namespace) close() { _ = unix.Close(n.fd) }
