package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/control"
)

// runMarks carries out iptables, ip6tables, and their -save and -restore. As with
// iptables, the status is 2 for wrong words and 1 for what the rules do not
// allow.
func runMarks(socket, name string, args []string) int {
	if len(args) == 1 && args[0] == "--unfollowed" {
		return unfollowed()
	}
	c := control.Dial(socket)
	program, verb, _ := strings.Cut(name, "-")
	ipv6 := program == "ip6tables"
	var out string
	var err error
	switch verb {
	case "save":
		out, err = c.MarkSave(ipv6)
	case "restore":
		var text []byte
		if text, err = io.ReadAll(os.Stdin); err == nil {
			if err = c.MarkRestore(ipv6, string(text)); err == nil {
				warnTables(name, string(text))
				warnLeftOut(name, leftOut(ipv6, string(text)))
			}
		}
	default:
		out, err = c.MarkCommand(ipv6, args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, ulvs.ErrInvalid) {
			return 2
		}
		return 1
	}
	fmt.Print(out)
	return 0
}

// warnTables says which tables of a restore were not for us, so that nobody
// takes it for the host's own.
func warnTables(name, text string) {
	var others []string
	for line := range strings.Lines(text) {
		if table, ok := strings.CutPrefix(strings.TrimSpace(line), "*"); ok && table != "mangle" {
			others = append(others, table)
		}
	}
	if len(others) > 0 {
		fmt.Fprintf(os.Stderr, "%s: ulvs has taken the rules of mangle; not for it: table %s\n", name, strings.Join(others, ", "))
	}
}

// leftOut returns the rules of a text which no packet of IPVS passes.
func leftOut(ipv6 bool, text string) []string {
	t := fwmark.NewTable(ipv6)
	if t.Restore(text) != nil {
		return nil // which the daemon has said
	}
	return t.LeftOut()
}

// warnLeftOut says which rules of a restore mean nothing to ulvs.
func warnLeftOut(name string, rules []string) {
	for _, r := range rules {
		fmt.Fprintf(os.Stderr, "%s: left out, as no packet of IPVS passes it: %s\n", name, r)
	}
}

const sysctlPrefix = "net.ipv4.vs."

// sysctlCommand reads and writes what a kernel has under net.ipv4.vs.
func sysctlCommand() *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use:   "sysctl [net.ipv4.vs.KEY[=VALUE]]…",
		Short: "Look at IPVS's sysctls, or set them",
		RunE: func(_ *cobra.Command, args []string) error {
			c := control.Dial(socket)
			if len(args) == 0 {
				all, err := c.Sysctls()
				if err != nil {
					return err
				}
				for _, name := range slices.Sorted(maps.Keys(all)) {
					fmt.Printf("%s%s = %d\n", sysctlPrefix, name, all[name])
				}
				return nil
			}
			// sysctl(8) takes "key = value" too.
			words := strings.ReplaceAll(strings.Join(args, "\n"), "\n=\n", "=")
			for arg := range strings.SplitSeq(words, "\n") {
				if err := sysctl(c, arg); err != nil {
					return err
				}
			}
			return nil
		},
	}
	controlFlag(c, &socket)
	c.Flags().BoolP("write", "w", false, "as sysctl(8) has it; a value is written anyway")
	c.Flags().BoolP("all", "a", false, "all of them; so does no argument")
	return c
}

func sysctl(c ulvs.Control, arg string) error {
	key, value, set := strings.Cut(arg, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	name, ours := strings.CutPrefix(strings.ReplaceAll(key, "/", "."), sysctlPrefix)
	if !ours {
		return fmt.Errorf("sysctl %q: give one of %s… (ulvs sysctl lists them)", key, sysctlPrefix)
	}
	if set {
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("sysctl %s: %q is no number: give one of 32 bits", key, value)
		}
		if err := c.SetSysctl(name, n); err != nil {
			return err
		}
	}
	n, err := c.Sysctl(name)
	if err != nil {
		return err
	}
	fmt.Printf("%s%s = %d\n", sysctlPrefix, name, n)
	return nil
}

func controlFlag(c *cobra.Command, socket *string) {
	c.Flags().StringVar(socket, "control", socketFromEnv(), "the daemon's `SOCKET`; also from ULVS_CONTROL")
}
