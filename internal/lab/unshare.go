package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// reentered marks the environment of a program that Unshare has run again.
const reentered = "ULVS_LAB_UNSHARED"

// Privileged reports whether this process may make labs: it has CAP_SYS_ADMIN
// and CAP_NET_ADMIN, as root or in a user namespace.
func Privileged() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return data[0].Effective&need == need
}

// Unshare gives an unprivileged program a world of its own: it runs the
// program again, with the same arguments, as root of a new user, network and
// mount namespace, and waits for it. ran is then true, and code is its exit
// code, to be passed on. When the process is privileged already, Unshare does
// nothing and ran is false. Call it first thing in main or TestMain.
//
// An error wraps ErrPrivileges: the system forbids user namespaces.
func Unshare() (code int, ran bool, err error) {
	if Privileged() {
		return 0, false, nil
	}
	if os.Getenv(reentered) != "" {
		return 0, false, fmt.Errorf("user namespace without capabilities: %w", ErrPrivileges)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), reentered+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = dieWithParent(&syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	// The child's parent-death signal follows this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, false, fmt.Errorf("%w; user namespaces are forbidden here: %w "+
			"(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, "+
			"kernel.apparmor_restrict_unprivileged_userns)", ErrPrivileges, err)
	}
	stop := forwardSignals(cmd.Process)
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, true, fmt.Errorf("wait for own child: %w", err)
	}
	if code = cmd.ProcessState.ExitCode(); code < 0 {
		code = 1 // ended by a signal
	}
	return code, true, nil
}

// forwardSignals passes the signals that ask for an end on to p. An interrupt
// from a terminal reaches p anyway; this process only has to survive it.
func forwardSignals(p *os.Process) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for s := range signals {
			if s != os.Interrupt {
				_ = p.Signal(s) // it may have ended just now
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}
