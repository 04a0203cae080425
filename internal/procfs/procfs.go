// Package procfs writes what IPVS has under /proc, in the kernel's format: /proc/net/ip_vs and
// its kin, and /proc/sys/net/ipv4/vs (net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_conn.c). What they say
// comes from the operator's verbs. The package opens no file.
package procfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/ulvs/ulvs"
)

// Source is what the files show; every ulvs.Control is one.
type Source interface {
	Version() (string, int, error)
	Services() ([]ulvs.ServiceStatus, error)
	Conns(yield func(ulvs.ConnStatus) bool) error
	Total() (ulvs.Total, error)
	Sysctl(name string) (int, error)
	Sysctls() (map[string]int, error)
	SetSysctl(name string, value int) error
}

// Hz is how many ticks a second has of a clock that persistence's timeouts are in: those of
// /proc/net/ip_vs are the only ones in the kernel's ticks. Debian's kernels have as many.
const Hz = 250

// Sysctls is where sysctls are.
const Sysctls = sysctlDir + "/"

// sysctlDir is the directory itself. What is written of it are the names in it.
const sysctlDir = "sys/net/ipv4/vs"

var files = map[string]func(io.Writer, Source) error{
	"net/ip_vs":              services,
	"net/ip_vs_conn":         conns,
	"net/ip_vs_conn_sync":    connsSync,
	"net/ip_vs_stats":        stats,
	"net/ip_vs_stats_percpu": statsPerCPU,
}

// Names are the files but for the sysctls: those that can only be read.
func Names() []string {
	return []string{"net/ip_vs", "net/ip_vs_conn", "net/ip_vs_conn_sync", "net/ip_vs_stats", "net/ip_vs_stats_percpu"}
}

// Write writes the contents of a file, which is named as it is under /proc. The error is
// ulvs.ErrUnsupported where there is none of that name, or Source's.
func Write(w io.Writer, name string, from Source) error {
	if sysctl, is := strings.CutPrefix(name, Sysctls); is {
		n, err := from.Sysctl(sysctl)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, n)
		return err
	}
	if name == sysctlDir {
		return sysctlNames(w, from)
	}
	write := files[name]
	if write == nil {
		return missing(name)
	}
	out := bufio.NewWriterSize(w, 64<<10)
	if err := write(out, from); err != nil {
		return err
	}
	return out.Flush()
}

func missing(name string) error {
	return fmt.Errorf("%w: ulvs has no /proc/%s", ulvs.ErrUnsupported, name)
}

func sysctlNames(w io.Writer, from Source) error {
	all, err := from.Sysctls()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, strings.Join(slices.Sorted(maps.Keys(all)), "\n"))
	return err
}

// Set sets a sysctl to what a program writes into its file: the first number of the text, as
// the kernel reads it (kernel/sysctl.c, do_proc_dointvec). The error is ulvs.ErrUnsupported where
// no sysctl has that name, or ulvs.ErrInvalid.
func Set(name, text string, to Source) error {
	sysctl, is := strings.CutPrefix(name, Sysctls)
	if !is {
		return missing(name)
	}
	if _, err := to.Sysctl(sysctl); err != nil {
		return err
	}
	if text == "" {
		return nil
	}
	n, ok := number(text)
	if !ok {
		return fmt.Errorf("%w: /proc/%s: %q is no number of 32 bits", ulvs.ErrInvalid, name, text)
	}
	return to.SetSysctl(sysctl, n)
}

// services is ip_vs_info_seq_show.
func services(w io.Writer, from Source) error {
	version, size, err := from.Version()
	if err != nil {
		return err
	}
	list, err := from.Services()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "IP Virtual Server version %s (size=%d)\n"+
		"Prot LocalAddress:Port Scheduler Flags\n"+
		"  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n", version, size)
	for i := range list {
		service(w, &list[i])
	}
	return nil
}

func service(w io.Writer, s *ulvs.ServiceStatus) {
	scheduler := s.Scheduler
	if scheduler == "" {
		scheduler = "wlc"
	}
	ops := ""
	if s.OnePacket {
		ops = "ops "
	}
	switch {
	case s.Mark != 0:
		fmt.Fprintf(w, "FWM  %08X %s %s", s.Mark, scheduler, ops)
	case s.Addr.Is6():
		fmt.Fprintf(w, "%s  [%s]:%04X %s ", s.Protocol, s.Addr.StringExpanded(), s.Port, scheduler)
	default:
		fmt.Fprintf(w, "%s  %X:%04X %s %s ", s.Protocol, s.Addr.AsSlice(), s.Port, scheduler, ops)
	}
	if p := s.Persistence; p.Timeout != 0 {
		fmt.Fprintf(w, "persistent %d %08X\n", int64(p.Timeout.Seconds())*Hz, netmask(s))
	} else {
		fmt.Fprintln(w)
	}
	for i := range s.Destinations {
		d := &s.Destinations[i]
		at := fmt.Sprintf("%X:%04X", d.Addr.AsSlice(), d.Port)
		if d.Addr.Is6() {
			at = fmt.Sprintf("[%s]:%04X", d.Addr.StringExpanded(), d.Port)
		}
		fmt.Fprintf(w, "  -> %s      %-7s %-6d %-10d %-10d\n", at, d.Forward, d.Weight, d.ActiveConns, d.InactConns)
	}
}

// conns is ip_vs_conn_seq_show.
func conns(w io.Writer, from Source) error {
	if _, err := io.WriteString(w, "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"); err != nil {
		return err
	}
	return eachConn(from, func(c *ulvs.ConnStatus, key string) error {
		_, err := fmt.Fprintf(w, "%-3s %s %-11s %7d%s\n", c.Protocol, key, c.State, seconds(c), engine(c))
		return err
	})
}

// connsSync is ip_vs_conn_sync_seq_show. No connection comes from a sync daemon.
func connsSync(w io.Writer, from Source) error {
	if _, err := io.WriteString(w, "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n"); err != nil {
		return err
	}
	return eachConn(from, func(c *ulvs.ConnStatus, key string) error {
		_, err := fmt.Fprintf(w, "%-3s %s %-11s %-6s %7d\n", c.Protocol, key, c.State, "LOCAL", seconds(c))
		return err
	})
}

// eachConn calls print for each connection and template, with its addresses as both files have
// them.
func eachConn(from Source, print func(c *ulvs.ConnStatus, key string) error) error {
	var failed error
	err := from.Conns(func(c ulvs.ConnStatus) bool {
		key := fmt.Sprintf("%s %04X %s %04X %s %04X", address(c.Client.Addr()), c.Client.Port(),
			address(c.Virtual.Addr()), c.Virtual.Port(), address(c.Dest.Addr()), c.Dest.Port())
		failed = print(&c, key)
		return failed == nil
	})
	return errors.Join(err, failed)
}

func seconds(c *ulvs.ConnStatus) int64 { return max(0, int64(c.Expires.Seconds())) }

func engine(c *ulvs.ConnStatus) string {
	if c.Engine == "" {
		return ""
	}
	return " " + c.Engine + " " + c.EngineData
}
