package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
)

// daemon holds the options of "ulvs run".
type daemon struct {
	interfaces  []string
	plane       string
	control     string
	rules       string
	marks       string
	marks6      string
	mac         string
	follow      bool
	connections int
	templates   int
	rsts        int
	procfs      string
	while       []string
	whileSaid   bool
	pin         string
	fresh       bool
	takeover    bool
	sockets     string
	ring        int
	busyPoll    time.Duration
	pins        string // the folder that comes of it, or ""
	unpinned    error  // why there is none, though it was not said so
	forget      bool   // nothing is to be kept there
	files       map[string]file
	log         *slog.Logger
	said        *lru.Cache[string, struct{}] // rules of the host that cannot be followed
}

func daemonCommand() *cobra.Command {
	var d daemon
	c := &cobra.Command{
		Use:   "run --interface IF[,IF…]",
		Short: "Run the director in the foreground",
		Long: `Run the director in the foreground, until SIGTERM or SIGINT. Its log goes to
standard error. The control socket appears when it is ready.`,
		Args: noWords("run"),
		RunE: func(c *cobra.Command, _ []string) error {
			d.whileSaid = c.Flags().Changed("while-address")
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			d.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			defer surviveSignals(d.log)()
			err := d.run(ctx)
			if errors.Is(err, errEnded) {
				d.log.Info("ended before it was ready")
				return nil
			}
			return err
		},
	}
	f := c.Flags()
	f.StringSliceVar(&d.interfaces, "interface", nil, "the `IF`s whose packets are balanced")
	f.StringVar(&d.plane, "plane", "auto", "how packets are taken: `PLANE` is auto, afpacket, tcx, or xdp")
	f.StringVar(&d.sockets, "af-xdp", "auto", "where AF_XDP sockets take new connections: `WHERE` is auto or on (where the driver runs the program), or off")
	f.IntVar(&d.ring, "af-xdp-ring", 2048, "`N`: how many frames wait in an AF_XDP socket; a power of two")
	f.DurationVar(&d.busyPoll, "af-xdp-busy-poll", 0, "`TIME` for which AF_XDP sockets look for frames before they wait")
	f.StringVar(&d.rules, "rules", "", "start with the services of `FILE`, which ipvsadm -Sn wrote; only compared if there is what an earlier daemon left")
	f.StringVar(&d.marks, "marks", "", "start with the mangle rules of `FILE`, which iptables-save wrote; only compared, likewise")
	f.StringVar(&d.marks6, "marks6", "", "the same with `FILE` of ip6tables-save")
	f.BoolVar(&d.follow, "follow-marks", false, "take the mark rules from the host's own iptables and nftables, and keep up with them")
	f.StringVar(&d.mac, "mac", "", "also take frames to this `ADDRESS`, and answer ARP and neighbour solicitations for virtual addresses with it (VRRP)")
	f.IntVar(&d.connections, "connections", director.DefaultConnections, "`N`: how many connections there can be")
	f.IntVar(&d.templates, "templates", 0, "`N`: how many connection templates there can be (default a quarter of --connections; at least 65536, but no more than --connections)")
	f.IntVar(&d.rsts, "rst-limit", director.DefaultRSTs, "`N`: how many RSTs a second are given in the host's place, for each interface; 0 is any number")
	f.StringSliceVar(&d.while, "while-address", nil, "serve only while the host has the address `VIP[,VIP]`, as the master of a VRRP pair; auto: each virtual address while the host has it, as kernel IPVS does")
	f.StringVar(&d.procfs, "procfs", "", "keep the files that IPVS has under /proc (net/ip_vs, net/ip_vs_stats, …) in the folder `DIR`, for programs that are told where /proc is")
	pinFlag(c, &d.pin)
	f.BoolVar(&d.fresh, "fresh", false, "begin without what an earlier daemon left in --pin")
	f.BoolVar(&d.takeover, "takeover", false, "take the place of the daemon that has the control socket: end it, and go on with what it leaves")
	controlFlag(c, &d.control)
	return c
}

func (d *daemon) run(ctx context.Context) error {
	if err := d.checkOptions(); err != nil {
		return err
	}
	if err := checkProcfs(d.procfs); err != nil {
		return err
	}
	mac, err := parseMAC(d.mac)
	if err != nil {
		return err
	}
	// Everything that can be wrong with what we were given comes before
	// anything that others can see.
	if err := permitted(); err != nil {
		return err
	}
	if err := d.findPins(); err != nil {
		return err
	}
	if err := d.read(ctx); err != nil {
		return err
	}
	if err := d.rehearse(ctx); err != nil {
		return err
	}
	if d.takeover { // nothing that is wrong may come after the other daemon's end
		if err := d.inheritable(mac); err != nil {
			return err
		}
	}
	name, server, err := d.reserve(ctx)
	if err != nil {
		return err
	}
	s, err := d.start(ctx, mac, name, server)
	if err != nil {
		return errors.Join(d.explain(err), name.Undo())
	}
	defer name.Close()
	return s.serve(ctx)
}

// socketUses are the words of --af-xdp.
var socketUses = map[string]xdp.SocketUse{"auto": xdp.SocketsAuto, "on": xdp.SocketsOn, "off": xdp.SocketsOff}

// rstLimit is what director.Options call --rst-limit.
func rstLimit(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func parseMAC(s string) (mac dataplane.MAC, err error) {
	if s == "" {
		return mac, nil
	}
	a, err := net.ParseMAC(s)
	if err != nil || len(a) != len(mac) || a[0]&1 != 0 {
		return mac, fmt.Errorf("--mac %s: give a unicast Ethernet address as 00:00:5e:00:01:0a", s)
	}
	return dataplane.MAC(a), nil
}

// permitted says what is missing where this process may not do what it must.
func permitted() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet sockets need CAP_NET_RAW, and nftables CAP_NET_ADMIN: run as root or in a user namespace: %w", err)
	}
	return unix.Close(fd)
}
