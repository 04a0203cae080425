package bridge

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

// Program is what is run.
type Program struct {
	Path      string   // of its file
	Args, Env []string // Args[0] is its name
	// Supervisor are the words of a command that calls Supervise.
	Supervisor []string
	// Proc has the program find IPVS's files under /proc too.
	Proc bool
	// IfNeeded runs the program as it is where IPVS answers already: the kernel's, or a
	// bridge's that was there before.
	IfNeeded bool
}

// ErrNested says that the program would have a filter that asks somebody already, of which a
// process has one.
var ErrNested = errors.New("a supervisor is asked already about this process's system calls (another bridge, or a container's runtime), and the kernel has room for one: run the program without ulvs bridge where that is a bridge, or outside of the container")

// pairFD is the descriptor at which a supervisor finds its end of the pair.
const pairFD = 3

// Run replaces this process by a program whose requests to IPVS go to the supervisor's daemon. It
// returns if that fails, with everything as it was but for the filter of a thread.
func Run(p Program) error {
	if p.IfNeeded && answers() {
		return unix.Exec(p.Path, p.Args, p.Env)
	}
	window, err := windowOf()
	if err != nil {
		return err
	}
	program, err := filter(window, p.Proc)
	if err != nil {
		return err
	}
	pair, err := p.supervise(window)
	if err != nil {
		return err
	}
	defer unix.Close(pair)
	// The filter is this thread's alone, until the program takes the process over.
	runtime.LockOSThread()
	listener, errno := install(program)
	if errno == unix.EACCES {
		// Without CAP_SYS_ADMIN nothing may give the program more rights.
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot do without new privileges: %w", err)
		}
		listener, errno = install(program)
	}
	switch {
	case errno == unix.EBUSY && answers():
		return unix.Exec(p.Path, p.Args, p.Env)
	case errno == unix.EBUSY:
		return ErrNested
	case errno == unix.EINVAL || errno == unix.ENOSYS:
		return fmt.Errorf("the kernel cannot ask a supervisor about system calls as it must (%w): Linux 5.19 can, with CONFIG_SECCOMP_FILTER", errno)
	case errno != 0:
		return fmt.Errorf("cannot filter system calls: %w", errno)
	}
	if err := handOver(pair, listener.fd); err != nil {
		return err
	}
	return unix.Exec(p.Path, p.Args, p.Env)
}

// handOver has the supervisor take the listener, and waits until it has.
func handOver(pair, fd int) error {
	if err := unix.Send(pair, fmt.Appendf(nil, "%d %d", os.Getpid(), fd), 0); err != nil {
		return fmt.Errorf("the supervisor: %w", err)
	}
	return heard(pair)
}

// heard waits for a word of the supervisor's: "ok", or what was wrong.
func heard(pair int) error {
	buf := make([]byte, 1024)
	n, err := unix.Read(pair, buf)
	switch {
	case err != nil:
		return fmt.Errorf("the supervisor: %w", err)
	case n == 0:
		return errors.New("the supervisor has ended: see what it says above")
	case string(buf[:n]) != "ok":
		return fmt.Errorf("the supervisor says: %s", buf[:n])
	}
	return nil
}

// supervise starts the supervisor, which is no child of this process then, and returns the end
// of a pair by which it hears.
func (p Program) supervise(w window) (int, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	its := os.NewFile(uintptr(ends[1]), "pair")
	defer its.Close()
	c := exec.Command(p.Supervisor[0], append(p.Supervisor[1:], strconv.Itoa(w.first))...)
	c.ExtraFiles, c.Stderr = []*os.File{its}, os.Stderr
	if err := c.Run(); err != nil { // it starts another one, and ends
		return -1, errors.Join(fmt.Errorf("cannot start the supervisor: %w", err), unix.Close(ends[0]))
	}
	_ = its.Close()
	if err := heard(ends[0]); err != nil {
		return -1, errors.Join(err, unix.Close(ends[0]))
	}
	return ends[0], nil
}

// windowOf is the window for a program that this process becomes. Go raises its own limit of
// descriptors, and gives back what it was to whom it executes, so that another program tells.
func windowOf() (window, error) {
	limit := uint64(1024)
	if out, err := exec.Command("cat", "/proc/self/limits").Output(); err == nil {
		if words := strings.Fields(field(out, "Max open files")); len(words) > 0 {
			if n, err := strconv.ParseUint(words[0], 10, 64); err == nil {
				limit = n
			}
		}
	}
	if w := windowBelow(limit); w.first > pairFD+8 {
		return w, nil
	}
	return window{}, fmt.Errorf("a limit of %d descriptors is too small: give ulimit -n 64 or more", limit)
}

// answers reports whether there is a family IPVS already.
func answers() bool {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, ipvsnl.Question(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false
	}
	buf := make([]byte, 8192)
	n, err := unix.Read(fd, buf)
	return err == nil && n >= unix.NLMSG_HDRLEN && order.Uint16(buf[4:]) == unix.GENL_ID_CTRL
}
