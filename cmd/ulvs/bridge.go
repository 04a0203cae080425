package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/bridge"
	"github.com/ulvs/ulvs/internal/control"
	"github.com/ulvs/ulvs/internal/ipvsnl"
	"github.com/ulvs/ulvs/internal/procfs"
)

// bridgeCommand runs programs that speak to the kernel's IPVS.
func bridgeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bridge",
		Short: "Run unmodified programs of IPVS, as keepalived",
	}
	c.AddCommand(bridgeExec(), bridgeSupervise())
	return c
}

// The exit statuses of env(1).
const (
	statusFailed   = 125
	statusNotRun   = 126
	statusNotFound = 127
)

func bridgeExec() *cobra.Command {
	var socket string
	var ifNeeded, proc bool
	c := &cobra.Command{
		Use:   "exec [flags] -- PROGRAM [ARGUMENTS]",
		Short: "Become a program whose requests to IPVS reach the daemon",
		Long: `Become a program whose requests to the kernel's IPVS, by netlink and by socket options,
reach the daemon, and those of all that it starts. It keeps its process id.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := exec.LookPath(args[0])
			if err != nil {
				fmt.Fprintf(os.Stderr, "ulvs bridge exec: %v\n", err)
				if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
					return status(statusNotFound)
				}
				return status(statusNotRun)
			}
			err = bridge.Run(bridge.Program{Path: path, Args: args, Env: os.Environ(), IfNeeded: ifNeeded,
				Proc: proc, Supervisor: []string{"/proc/self/exe", "bridge", "supervise", "--control", socket}})
			fmt.Fprintf(os.Stderr, "ulvs bridge exec: %s: %v\n", args[0], err)
			if errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.EACCES) {
				return status(statusNotRun)
			}
			return status(statusFailed)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&socket, "control", socketFromEnv(), "the daemon's control socket")
	c.Flags().BoolVar(&proc, "proc", false, "it finds /proc/net/ip_vs… and /proc/sys/net/ipv4/vs too, as ipvsadm -Lc and sysctl need; opening any file takes some 30 us more")
	c.Flags().BoolVar(&ifNeeded, "if-needed", false, "run the program as it is where IPVS answers already: the kernel's, or another bridge's")
	return c
}

// bridgePatience is how long a program waits for a daemon that is there and does not answer. The
// kernel, for which the program takes it, answers however busy the machine is; who sits in front
// of a command would rather be told.
const bridgePatience = time.Minute

func bridgeSupervise() *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use:    "supervise FIRST",
		Short:  "What ulvs bridge exec starts",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			client := control.Dial(socket)
			client.Patience = bridgePatience
			return bridge.Supervise(args[0], bridgedDaemon{control.Bridge{Client: client}}, bridgeErrno)
		},
	}
	c.Flags().StringVar(&socket, "control", control.DefaultSocket, "the daemon's control socket")
	return c
}

// IPVS implements control.Bridged.
func (t *handover) IPVS(request json.RawMessage) (any, error) {
	var r ipvsnl.Request
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ulvs.ErrInvalid, err)
	}
	return ipvsnl.Do(t, r), nil
}

// ReadProc implements control.Bridged.
func (t *handover) ReadProc(w io.Writer, name string) error { return procfs.Write(w, name, t) }

// WriteProc implements control.Bridged.
func (t *handover) WriteProc(name, text string) error { return procfs.Set(name, text, t) }

// bridgedDaemon is the daemon as a supervisor asks it.
type bridgedDaemon struct{ control.Bridge }

// IPVS implements bridge.Daemon.
func (d bridgedDaemon) IPVS(r ipvsnl.Request) (reply ipvsnl.Reply, err error) {
	err = d.Bridge.IPVS(r, &reply)
	return reply, err
}

// bridgeErrno is what a program is told that the daemon says or, where that does not answer: without
// one, that there is no module.
func bridgeErrno(err error) unix.Errno {
	switch {
	case errors.Is(err, ulvs.ErrUnreachable), errors.Is(err, ulvs.ErrUnsupported):
		return unix.ENOENT
	case errors.Is(err, ulvs.ErrInvalid):
		return unix.EINVAL
	case errors.Is(err, ulvs.ErrPermission):
		return unix.EPERM
	}
	return unix.ETIMEDOUT
}
