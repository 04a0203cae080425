package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Reservation is a socket's name, kept for one daemon. The lock file beside the
// socket stays when it ends, or two daemons could each lock one of its name. It says
// the daemon's process id.
type Reservation struct {
	path string
	lock *os.File
}

// lockPath returns the name of a socket's lock file.
func lockPath(path string) string { return path + ".lock" }

// Reserve takes the name of a socket, before anything else is changed: it fails
// when a daemon has the name, also one that is just starting, and when there is
// something of that name that is no socket.
func Reserve(path string) (*Reservation, error) {
	lock, err := lockName(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		_ = lock.Close()
		return nil, fmt.Errorf("control socket %s: there is a file of that name that is no socket; give another with --control", path)
	}
	return &Reservation{path, lock}, nil
}

// lockName locks the lock file of a socket's name.
func lockName(path string) (*os.File, error) {
	lock, err := os.OpenFile(lockPath(path), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w; give another with --control", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, errors.New("another ulvs daemon has it; stop that one, or give another socket with --control")
	}
	// For clients that get no answer (lockHolder): nothing depends on it.
	if lock.Truncate(0) == nil {
		_, _ = lock.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	}
	return lock, nil
}

// lockAgain makes sure that the lock file that has the name is the one that is locked.
func (r *Reservation) lockAgain() error {
	named, err := os.Stat(lockPath(r.path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	locked, lockErr := r.lock.Stat()
	if lockErr != nil {
		return lockErr
	}
	if err == nil && os.SameFile(named, locked) {
		return nil
	}
	lock, err := lockName(r.path)
	if err != nil {
		return err
	}
	_ = r.lock.Close()
	r.lock = lock
	return nil
}

// Close lets the next daemon have the name.
func (r *Reservation) Close() error { return r.lock.Close() }
