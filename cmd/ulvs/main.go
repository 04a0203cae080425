// Command ulvs is the Linux Virtual Server in userspace: the daemon, and the
// words that operators of IPVS know. Called by the name ipvsadm, iptables or
// ip6tables it is that command.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ulvs/ulvs/internal/control"
	"github.com/ulvs/ulvs/internal/ipvsadm"
)

// version is set by the Makefile.
var version = "development"

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	switch filepath.Base(args[0]) {
	case "ipvsadm":
		return runIPVSAdm(socketFromEnv(), args)
	case "ipvsadm-save", "ipvsadm-restore": // Debian's scripts around -S and -R
		verb := map[string]string{"ipvsadm-save": "-S", "ipvsadm-restore": "-R"}[filepath.Base(args[0])]
		return runIPVSAdm(socketFromEnv(), append([]string{"ipvsadm", verb}, args[1:]...))
	case "iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore":
		return runMarks(socketFromEnv(), filepath.Base(args[0]), args[1:])
	}
	root := rootCommand()
	root.SetArgs(args[1:])
	err := root.Execute()
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintf(os.Stderr, "ulvs: %s\n", plain(err))
	return 1
}

// goes are words of Go's library that say nothing more.
var goes = regexp.MustCompile(`route ip\+net: |strconv\.Parse\w+: parsing "[^"]*": `)

// plain is an error in one line, in words that are not Go's.
func plain(err error) string {
	return goes.ReplaceAllString(strings.ReplaceAll(err.Error(), "\n", "; "), "")
}

// exitStatus ends the program with a status when everything has been said.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func status(code int) error {
	if code == 0 {
		return nil
	}
	return exitStatus(code)
}

func socketFromEnv() string {
	if s := os.Getenv("ULVS_CONTROL"); s != "" {
		return s
	}
	return control.DefaultSocket
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "ulvs",
		Short:         "The Linux Virtual Server in userspace",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: `ulvs runs in the place of kernel IPVS, in direct routing: start it with
"ulvs run", and talk to it with "ulvs ipvsadm" and "ulvs iptables" as to the
kernel's.`,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
	})
	root.AddCommand(daemonCommand(), demoCommand(), detachCommand(), sysctlCommand(), statusCommand(), benchCommand(),
		bridgeCommand(),
		wordsCommand("ipvsadm", "Services and real servers, in ipvsadm's words", func(socket string, args []string) int {
			return runIPVSAdm(socket, append([]string{"ipvsadm"}, args...))
		}))
	for _, name := range []string{"iptables", "ip6tables"} {
		root.AddCommand(
			wordsCommand(name, "Firewall marks, in "+name+"' words; --unfollowed lists what --follow-marks cannot evaluate",
				func(socket string, args []string) int { return runMarks(socket, name, args) }),
			wordsCommand(name+"-save", "The firewall mark rules, as "+name+"-save prints them",
				func(socket string, args []string) int { return runMarks(socket, name+"-save", args) }),
			wordsCommand(name+"-restore", "Firewall mark rules from standard input, as "+name+"-save printed them",
				func(socket string, args []string) int { return runMarks(socket, name+"-restore", args) }))
	}
	return root
}

// wordsCommand returns a command whose arguments are another program's. Only
// --control SOCKET, before them, is ours.
func wordsCommand(name, short string, f func(socket string, args []string) int) *cobra.Command {
	return &cobra.Command{
		Use:                name + " [--control SOCKET] …",
		Short:              short,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") && name != "ipvsadm" {
				return c.Help()
			}
			socket := socketFromEnv()
			if len(args) >= 2 && args[0] == "--control" {
				socket, args = args[1], args[2:]
			}
			return status(f(socket, args))
		},
	}
}

func runIPVSAdm(socket string, args []string) int {
	client := control.Dial(socket)
	client.Warned = func(text string) { fmt.Fprintf(os.Stderr, "ulvs: warning: %s\n", text) }
	c := ipvsadm.Command{Control: client, Stdin: newStdin(os.Stdin), Stdout: os.Stdout, Stderr: os.Stderr,
		Warnings: os.Stderr}
	return c.Run(args) & 0xff
}
