package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Reservation is a socket's name, kept for one daemon by a lock file beside the socket,
// which says the daemon's process id.
type Reservation struct {
	path string
	lock *os.File
	made bool // the file was not there
}

// longestPath is as much as a unix socket's address holds (include/uapi/linux/un.h).
const longestPath = 107

// lockPath returns the name of a socket's lock file.
func lockPath(path string) string { return path + ".lock" }

// Reserve takes the name of a socket, before anything else is changed: it fails
// when a daemon has the name, also one that is just starting, and when there is
// something of that name that is no socket.
func Reserve(path string) (*Reservation, error) {
	if len(path) > longestPath {
		return nil, fmt.Errorf("control socket %s: its path has %d bytes, and a unix socket's at most %d; give a shorter one with --control", path, len(path), longestPath)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("control socket %s: there is a file of that name that is no socket; give another with --control", path)
	}
	_, err := os.Lstat(lockPath(path))
	made := errors.Is(err, fs.ErrNotExist)
	lock, err := lockName(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return &Reservation{path, lock, made}, nil
}

// lockName locks the lock file of a socket's name.
func lockName(path string) (*os.File, error) {
	for {
		lock, err := tryLock(path)
		if lock != nil || err != nil {
			return lock, err
		}
	}
}

// tryLock returns nil without an error if the file was removed meanwhile, by a daemon that
// did not start: others do not see a lock on it.
func tryLock(path string) (*os.File, error) {
	lock, err := os.OpenFile(lockPath(path), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w; give another with --control", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, errors.New("another ulvs daemon has it; stop that one, or give another socket with --control")
	}
	locked, err := lock.Stat()
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	if there, err := os.Lstat(lockPath(path)); err != nil || !os.SameFile(locked, there) {
		return nil, lock.Close()
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

// Close lets the next daemon have the name. The lock file stays.
func (r *Reservation) Close() error { return r.lock.Close() }

// Undo is Close for a daemon that did not start: the lock file goes, if it was not there
// before.
func (r *Reservation) Undo() error {
	if r.made {
		_ = os.Remove(r.lock.Name())
	}
	return r.lock.Close()
}
