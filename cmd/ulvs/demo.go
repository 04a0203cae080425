package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ulvs/ulvs/internal/lab"
)

func demoCommand() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Walk through the three kinds of persistence, in namespaces of its own",
		Long: `Make a network of namespaces (client, director, two real servers with HTTP,
TLS and a TCP service), run the director in it, and walk through the three kinds
of persistence with real connections. Nothing outside the namespaces is touched.
Needs root, or a kernel that permits user namespaces.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			code, ran, err := lab.Unshare()
			if err != nil {
				return err
			}
			if ran {
				return status(code)
			}
			// SIGPIPE is that nobody reads what it says any more: it takes everything away then.
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT,
				syscall.SIGHUP, syscall.SIGPIPE)
			defer stop()
			return demo(ctx, os.Stdout, keep)
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "leave everything up at the end, to look around, until interrupted")
	return c
}

// show is the demo under way: the scene, and what the audience has seen.
type show struct {
	scene *scene
	out   io.Writer
	// failures are the sentences that turned out not to be true.
	failures []string
	checks   int
}

// demo returns an error when the scene cannot be set or when something that it
// claims did not come true.
func demo(ctx context.Context, out io.Writer, keep bool) (err error) {
	began := time.Now()
	s := &show{out: out}
	if s.scene, err = newScene(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, s.scene.close()) }()
	s.say("%s", s.scene.picture())
	for _, part := range []struct {
		title string
		walk  func(context.Context) error
	}{
		{"PCC: all that a client sends, whatever the port, stays on one server", s.pcc},
		{"PPC: one service, and every client stays on its server", s.ppc},
		{"Firewall marks: 80 and 443 of one shop share mark 10", s.marks},
		{"An upload of 10 MB through the director", s.upload},
	} {
		s.say("\n=== %s\n", part.title)
		err := part.walk(ctx)
		if ctx.Err() != nil {
			return errors.New("demo: interrupted")
		}
		if err != nil {
			return fmt.Errorf("demo: %s: %w", part.title, err)
		}
	}
	s.say("\n=== Summary: %d of %d claims came true, in %.1f s", s.checks-len(s.failures), s.checks, time.Since(began).Seconds())
	for _, f := range s.failures {
		s.say("FAILED: %s", f)
	}
	if keep {
		s.say("\n%s\nCtrl-C takes it all away.", s.scene.lookInside())
		<-ctx.Done()
	}
	if len(s.failures) > 0 {
		return exitStatus(1)
	}
	return nil
}

func (s *show) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// check states a claim and whether it is true.
func (s *show) check(ok bool, format string, args ...any) {
	claim := fmt.Sprintf(format, args...)
	s.checks++
	mark := "ok"
	if !ok {
		mark = "FAILED"
		s.failures = append(s.failures, claim)
	}
	s.say("  [%s] %s", mark, claim)
}

// run carries out a command on the director, as it is typed there.
func (s *show) run(ctx context.Context, command string) error {
	s.say("director# %s", command)
	out, err := s.scene.command(ctx, strings.Fields(command))
	for line := range strings.Lines(string(out)) {
		s.say("%s", strings.TrimRight(line, " \n"))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// begin starts a new director, without services and connections unless the
// arguments name some.
func (s *show) begin(ctx context.Context, args ...string) error {
	args = append([]string{"--interface", "eth0"}, args...)
	if err := s.scene.stop(); err != nil {
		return err
	}
	s.say("director# ulvs run %s", strings.Join(args, " "))
	return s.scene.start(ctx, args...)
}

func (s *show) runAll(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		if err := s.run(ctx, c); err != nil {
			return err
		}
	}
	return nil
}
