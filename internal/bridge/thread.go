package bridge

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// thread is one that waits in a system call, in a process whose memory and descriptors the
// supervisor may reach.
type thread struct {
	tid       int
	process   int    // its process
	pidfd     int    // of that
	effective uint64 // its capabilities
}

// threadOf opens what is needed of a notification's thread. It may have ended before, and its
// number may be another's: the notification is valid still if it has not.
func threadOf(l listener, n *notification) (t *thread, err error) {
	t = &thread{tid: int(n.thread), pidfd: -1}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.tid))
	if err != nil {
		return nil, err
	}
	t.process, err = strconv.Atoi(field(status, "Tgid:"))
	if err == nil {
		t.effective, err = strconv.ParseUint(field(status, "CapEff:"), 16, 64)
	}
	if err == nil {
		t.pidfd, err = unix.PidfdOpen(t.process, 0)
	}
	if err != nil {
		return nil, err
	}
	if !l.valid(n.id) {
		t.close()
		return nil, unix.ESRCH
	}
	return t, nil
}

func (t *thread) close() {
	if t.pidfd >= 0 {
		_ = unix.Close(t.pidfd)
	}
}

// field is a line's value in a file of /proc.
func field(text []byte, name string) string {
	for line := range bytes.Lines(text) {
		if value, is := bytes.CutPrefix(line, []byte(name)); is {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// descriptor is a copy of one of the process's. The caller closes it.
func (t *thread) descriptor(fd int) (int, error) {
	own, err := unix.PidfdGetfd(t.pidfd, fd, 0)
	if err == nil {
		unix.CloseOnExec(own)
	}
	return own, err
}

// read copies from the process's memory. EFAULT says that there is none.
func (t *thread) read(at uint64, size int) ([]byte, error) {
	b := make([]byte, size)
	if size == 0 {
		return b, nil
	}
	n, err := unix.ProcessVMReadv(t.process, []unix.Iovec{{Base: &b[0], Len: uint64(size)}},
		[]unix.RemoteIovec{{Base: uintptr(at), Len: size}}, 0)
	if err == nil && n < size {
		err = unix.EFAULT
	}
	return b, err
}

// write copies into the process's memory.
func (t *thread) write(at uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := unix.ProcessVMWritev(t.process, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}},
		[]unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

// netns is the thread's network namespace. The caller closes it.
func (t *thread) netns() (int, error) {
	return unix.Open(fmt.Sprintf("/proc/%d/ns/net", t.tid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// admin reports whether the thread has CAP_NET_ADMIN in the supervisor's user namespace, as the kernel
// asks for the first one's (GENL_ADMIN_PERM, netlink_capable): there is one daemon, and whoever owns a
// network namespace of his own has no say in it.
func (t *thread) admin() bool {
	if t.effective>>unix.CAP_NET_ADMIN&1 == 0 {
		return false
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", t.tid))
	if err != nil {
		return false
	}
	ours, err := os.Readlink("/proc/self/ns/user")
	return err == nil && ours == its
}

// free returns a descriptor of the window that the process does not have, or -1.
func (t *thread) free(w window) int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", t.tid))
	if err != nil {
		return -1
	}
	taken := map[string]bool{}
	for _, e := range list {
		taken[e.Name()] = true
	}
	for fd := w.first; fd < w.first+windowSize; fd++ {
		if !taken[strconv.Itoa(fd)] {
			return fd
		}
	}
	return -1
}

// within runs f on a thread of ours in a network namespace; the thread ends with it.
func within(netns int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and is not unlocked: the thread ends
		err := unix.Setns(netns, unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
