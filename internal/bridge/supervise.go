package bridge

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// stage is set in the environment of the supervisor itself, which its first process starts.
const stage = "ULVS_BRIDGE_SUPERVISOR"

// Supervise is the supervisor's side of Run, in a process of its own, with the last word that it
// was started with. absent says of an error of the daemon's which errno a program is told: ENOENT
// is that of a kernel without IPVS. It returns when the last process that it is asked about has
// ended.
func Supervise(first string, daemon Daemon, absent func(error) unix.Errno) error {
	if os.Getenv(stage) == "" {
		return detach()
	}
	unix.CloseOnExec(pairFD)
	// Whoever ends the program and its group must not end this before it.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	at, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("%q is no descriptor: ulvs bridge exec starts this", first)
	}
	if err := unix.Send(pairFD, []byte("ok"), 0); err != nil {
		return err
	}
	fd, err := taken()
	if err != nil {
		return errors.Join(err, unix.Send(pairFD, []byte(err.Error()), 0))
	}
	if err := unix.Send(pairFD, []byte("ok"), 0); err != nil {
		return err
	}
	_ = unix.Close(pairFD)
	// One goroutine waits in poll(2), and is no reason for others to wait (runtime/proc.go, retake).
	runtime.GOMAXPROCS(1 + runtime.GOMAXPROCS(0))
	s := &supervisor{listener: listener{fd}, window: window{at}, daemon: daemon, absent: absent,
		senders: map[uint64]*sender{}, queues: map[uint64]*queue{}, written: written{files: map[uint64]*writtenFile{}}}
	err = s.serve()
	s.settle() // what the last program has written and nobody has read
	return err
}

// taken takes the listener from the process that says which of its descriptors it is.
func taken() (int, error) {
	buf := make([]byte, 64)
	n, err := unix.Read(pairFD, buf)
	if err != nil {
		return -1, err
	}
	var pid, its int
	if _, err := fmt.Sscanf(string(buf[:n]), "%d %d", &pid, &its); err != nil {
		return -1, fmt.Errorf("%q names no listener: ulvs bridge exec starts this", buf[:n])
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot reach process %d: %w", pid, err)
	}
	defer unix.Close(process)
	fd, err := unix.PidfdGetfd(process, its, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot take the listener of process %d (%w): it needs CAP_SYS_PTRACE, and kernel.yama.ptrace_scope below 3", pid, err)
	}
	unix.CloseOnExec(fd)
	return fd, nil
}

// detach starts the supervisor, and ends, so that it is nobody's child that waits for it.
func detach() error {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), stage+"=1")
	c.ExtraFiles = []*os.File{os.NewFile(pairFD, "pair")}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return c.Start()
}
