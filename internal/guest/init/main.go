// Command init is process 1 of a guest: it makes a fresh kernel a place where
// programs work, runs the one that package guest was asked to run, and switches the
// guest off. It refuses to be anything but process 1.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/ulvs/ulvs/internal/guest"
	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the first process of a qemu guest; run `go test ./internal/guest -run TestKernels -guests` instead")
		os.Exit(2)
	}
	code, err := serve()
	said := fmt.Sprintf("%s%d", guest.ExitLine, code)
	if err != nil {
		said = guest.ErrorLine + err.Error()
	}
	say(said)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: " + err.Error())
	}
}

// serve runs the program and returns its exit status.
func serve() (code int, err error) {
	if err := mount(); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(guest.PlanFile)
	if err != nil {
		return 0, err
	}
	var plan guest.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return 0, fmt.Errorf("%s: %w", guest.PlanFile, err)
	}
	for _, m := range plan.Modules {
		if err := load(m); err != nil {
			return 0, err
		}
	}
	if err := loopback(); err != nil {
		return 0, err
	}
	out, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	if err := raw(out); err != nil {
		return 0, err
	}
	cmd := exec.Command(plan.Binary, plan.Args...)
	cmd.Dir, cmd.Env = plan.Dir, plan.Env
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	drain(out)
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return 0, fmt.Errorf("run %s: %w; is it static, and for amd64?", plan.Binary, err)
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

func mount() error {
	for _, m := range []struct{ kind, where string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
		{"bpf", "/sys/fs/bpf"},
	} {
		if err := unix.Mount(m.kind, m.where, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.where, err)
		}
	}
	return nil
}

func load(m guest.Module) error {
	f, err := os.Open(m.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), m.Parameters, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s %s: %w", m.Path, m.Parameters, err)
	}
	return nil
}

// loopback brings lo up.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// raw has a terminal leave bytes as they are: it would make \r\n of \n.
func raw(tty *os.File) error {
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("%s: %w", tty.Name(), err)
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t); err != nil {
		return fmt.Errorf("%s: %w", tty.Name(), err)
	}
	return nil
}

// drain waits until all that was written is out: what is not when the guest is
// switched off is lost.
func drain(tty *os.File) { _ = unix.IoctlSetInt(int(tty.Fd()), unix.TCSBRK, 1) }

// say writes a line of its own where the kernel's log goes.
func say(line string) {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		console = os.Stdout // without a /dev, what the kernel opened for us
	}
	fmt.Fprintf(console, "\n%s\n", line)
	drain(console)
}
