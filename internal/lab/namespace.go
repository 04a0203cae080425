package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is one network namespace and the thread that made it.
//
// The thread lives as long as the namespace and starts its child processes:
// a child's parent-death signal follows the thread that forked it, so that
// children outlive neither the namespace nor this process.
type namespace struct {
	fd    netns.NsHandle
	name  string // under /run/netns, or ""
	calls chan func()
	quit  chan struct{}
}

var errClosed = errors.New("the lab is closed")

func newNamespace(name string) (*namespace, error) {
	n := &namespace{fd: netns.None(), calls: make(chan func()), quit: make(chan struct{})}
	ready := make(chan error)
	go n.keep(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	if name == "" {
		return n, nil
	}
	if err := n.bind(name); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// keep enters a new namespace and serves calls in it. It never unlocks its
// thread, which therefore ends with it.
func (n *namespace) keep(ready chan<- error) {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			err = ErrPrivileges
		}
		ready <- fmt.Errorf("new network namespace: %w", err)
		return
	}
	if err := withoutDNS(); err != nil {
		ready <- err
		return
	}
	fd, err := netns.GetFromPath("/proc/thread-self/ns/net")
	if err != nil {
		ready <- fmt.Errorf("open network namespace: %w", err)
		return
	}
	n.fd = fd
	ready <- nil
	for {
		select {
		case call := <-n.calls:
			call()
		case <-n.quit:
			return
		}
	}
}

// withoutDNS hides /etc/resolv.conf from the children of this thread, which
// has a mount namespace of its own. The host's name server might have an
// address that the lab routes somewhere else, and each look-up would then wait
// for its timeout. Without the file, resolvers ask 127.0.0.1 and are refused.
func withoutDNS() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	err := unix.Mount(os.DevNull, "/etc/resolv.conf", "", unix.MS_BIND, "")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hide /etc/resolv.conf: %w", err)
	}
	return nil
}

// start runs f on the namespace's own thread. f must not block for long.
func (n *namespace) start(f func() error) error {
	done := make(chan error)
	select {
	case n.calls <- func() { done <- f() }:
		return <-done
	case <-n.quit:
		return errClosed
	}
}

// do runs f on some thread that is in the namespace meanwhile.
func (n *namespace) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.GetFromPath("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := netns.Set(n.fd); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
		// A thread that cannot go home stays locked, and so ends here.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func (n *namespace) netlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(n.fd, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return h, nil
}

// sysctl writes one value. A name that starts with "-" may be missing, or not
// this namespace's to write, as in sysctl.d(5).
func (n *namespace) sysctl(name, value string) error {
	name, optional := strings.CutPrefix(name, "-")
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	err := n.do(func() error { return os.WriteFile(path, []byte(value), 0o644) })
	missing := errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission)
	if err == nil || optional && missing {
		return nil
	}
	return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
}

const netnsDir = "/run/netns"

// bind makes the namespace visible to ip-netns(8).
func (n *namespace) bind(name string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("name namespace %s: %w", name, err)
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("name namespace: %w (`ip netns del %s` removes one that was left behind)", err, name)
	}
	f.Close()
	from := fmt.Sprintf("/proc/self/fd/%d", int(n.fd))
	if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("name namespace %s: %w", name, err)
	}
	n.name = name
	return nil
}

func (n *namespace) close() error {
	close(n.quit)
	err := n.fd.Close()
	if n.name == "" {
		return err
	}
	path := filepath.Join(netnsDir, n.name)
	return errors.Join(err, unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))
}

// dieWithParent is what every child process of a lab starts with.
func dieWithParent(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Pdeathsig = syscall.SIGKILL
	return attr
}
