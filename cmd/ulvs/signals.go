package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// surviveSignals keeps signals from ending the daemon by which others read their
// configuration anew, or which say that nobody reads its log any more.
func surviveSignals(log *slog.Logger) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	// Writing to a pipe that nobody reads fails then, and does not kill (package os/signal).
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	go func() {
		for s := range signals {
			log.Info("a signal is ignored: nothing is read anew; services are changed by \"ulvs ipvsadm\", "+
				"options by a restart with --takeover", "signal", s.String())
		}
	}()
	return func() {
		signal.Stop(signals)
		signal.Stop(pipe)
		close(signals)
	}
}

// noWords refuses arguments that are no options, as interfaces' names after "ulvs run".
func noWords(command string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return fmt.Errorf("%s %s: it takes options alone; say --interface %s", command, strings.Join(args, " "),
			strings.Join(args, ","))
	}
}
