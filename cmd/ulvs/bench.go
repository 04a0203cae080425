package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/bench/wire"
)

// benchCommand measures a director from outside, on real cards: bench/LAB.md.
func benchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure a director from another host: generate packets for it, and count what comes back",
		Long: `Measure a director from another host, whichever director it is: "ulvs bench
generate" makes packets in the kernel, millions a second on each CPU, and counts
what comes back; "ulvs bench count" counts on a host of its own. Both need root,
and generating needs Linux 5.18. They are for networks that are yours alone.`,
	}
	c.AddCommand(generateCommand(), countCommand())
	return c
}

// generation holds the options of "ulvs bench generate".
type generation struct {
	counting
	peer      string
	client    string
	flows     uint32
	perClient uint32
	fresh     bool
	rate      uint64
	openRate  uint64
	size      int
	cpus      string
}

func generateCommand() *cobra.Command {
	var g generation
	c := &cobra.Command{
		Use:   "generate --interface IF --peer-mac MAC --vip VIP:PORT",
		Short: "Send packets to a virtual service, and count those that come back to the interface",
		Long: `Send packets to a virtual service out of an interface, for 10 seconds, and count
those that come back to it: this host is the real server too, or else "ulvs bench
count" runs on the one that is.

Without --new, the connections are opened first (SYN and ACK of each), and packets
of all of them are sent at random. With --new, each packet is a SYN of another
connection. What comes back for the service is counted and dropped in front of the
host's stack; all else, ARP too, is left to it. Nothing is ever answered.

SIGINT and SIGTERM end it early; it then prints what it has.`,
		Args: cobra.NoArgs,
		RunE: untilSignal(g.run),
	}
	f := c.Flags()
	g.flags(c)
	f.StringVar(&g.peer, "peer-mac", "", "the director's `MAC` address, to which frames are sent")
	f.StringVar(&g.client, "client", "", "the first client's `ADDR`; others are those that follow (default 198.18.0.0, or 2001:2::, which are for benchmarks)")
	f.Uint32Var(&g.flows, "flows", 1, "`N`: how many connections there are")
	f.Uint32Var(&g.perClient, "per-client", 4, "`N`: how many of them come from one address, from ports 1024 and on; a power of two")
	f.BoolVar(&g.fresh, "new", false, "each packet asks for a new connection")
	f.Uint64Var(&g.rate, "rate", 0, "`PPS`: how many packets a second are sent, on all CPUs; 0 is as many as there can be")
	f.Uint64Var(&g.openRate, "open-rate", 100000, "`PPS`: at what rate connections are opened beforehand")
	f.IntVar(&g.size, "size", 60, "`N`: how long frames are, in bytes without the checksum at their end, 60 to 1454")
	f.StringVar(&g.cpus, "cpu", "", "the `LIST` of CPUs that send, as 2,4-7 (default the first that this process may use)")
	return c
}

func countCommand() *cobra.Command {
	var o counting
	c := &cobra.Command{
		Use:   "count --interface IF --vip VIP:PORT",
		Short: "Count the packets to a virtual service that reach an interface, and drop them",
		Long: `Count the packets to a virtual service that reach an interface, as a real server
that answers nothing. They are dropped in front of the host's stack; all else, ARP
too, is left to it. SIGINT and SIGTERM end it early; it then prints what it has.`,
		Args: cobra.NoArgs,
		RunE: untilSignal(o.run),
	}
	o.flags(c)
	return c
}

// untilSignal runs a measurement that SIGTERM and SIGINT end early.
func untilSignal(run func(context.Context, io.Writer) error) func(*cobra.Command, []string) error {
	return func(*cobra.Command, []string) error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return run(ctx, os.Stdout)
	}
}

// counting holds the options of "ulvs bench count".
type counting struct {
	interfaceName string
	vip           string
	udp           bool
	seconds       int
	json          bool
}

func (o *counting) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.interfaceName, "interface", "", "the `IF` to use")
	f.StringVar(&o.vip, "vip", "", "the virtual service, as `VIP:PORT`, or [VIP]:PORT")
	f.BoolVar(&o.udp, "udp", false, "the service is UDP's, not TCP's")
	f.IntVar(&o.seconds, "seconds", 10, "`N`: for how long, at most 86400")
	f.BoolVar(&o.json, "json", false, "print one JSON object at the end")
}

// check says what is wrong with what both commands are given.
func (o *counting) check() (service netip.AddrPort, err error) {
	if o.interfaceName == "" {
		return service, errors.New("give --interface IF: the interface on the director's network (ip link lists them)")
	}
	if o.vip == "" {
		return service, errors.New("give --vip VIP:PORT: the virtual service; all other packets are left to this host")
	}
	service, err = netip.ParseAddrPort(o.vip)
	if err != nil || service.Port() == 0 || service.Addr().Zone() != "" || service.Addr().Is4In6() {
		return service, fmt.Errorf("--vip %s: give an address and a port, as 192.0.2.1:80 or [2001:db8::1]:80", o.vip)
	}
	if o.seconds < 1 || o.seconds > 86400 {
		return service, fmt.Errorf("--seconds %d: give 1 to 86400", o.seconds)
	}
	return service, nil
}

// traffic returns the packets that each CPU is to make.
func (g *generation) traffic() (list []wire.Traffic, err error) {
	service, err := g.check()
	if err != nil {
		return nil, err
	}
	if g.peer == "" {
		return nil, errors.New("give --peer-mac MAC: the director's link address (ip neigh on this host, or ip link on the director)")
	}
	peer, err := net.ParseMAC(g.peer)
	if err != nil || len(peer) != 6 || peer[0]&1 != 0 {
		return nil, fmt.Errorf("--peer-mac %s: give a unicast Ethernet address as 00:00:5e:00:01:0a", g.peer)
	}
	client := netip.MustParseAddr("198.18.0.0")
	if service.Addr().Is6() {
		client = netip.MustParseAddr("2001:2::")
	}
	if g.client != "" {
		client, err = netip.ParseAddr(g.client)
		if err != nil || client.Is4() != service.Addr().Is4() || client.Zone() != "" {
			return nil, fmt.Errorf("--client %s: give an address of the service's family", g.client)
		}
	}
	cpus, err := parseCPUs(g.cpus)
	if err != nil {
		return nil, err
	}
	n := uint32(len(cpus))
	switch {
	case g.perClient == 0 || g.perClient > 1<<14 || bits.OnesCount32(g.perClient) != 1:
		return nil, fmt.Errorf("--per-client %d: give a power of two up to 16384", g.perClient)
	case g.flows == 0 || g.flows > 1<<28:
		return nil, fmt.Errorf("--flows %d: give 1 to 268435456", g.flows)
	case !g.fresh && g.flows < n:
		return nil, fmt.Errorf("--flows %d: give at least as many as there are CPUs, %d", g.flows, n)
	case g.rate > 0 && g.rate < uint64(n), g.rate > 1e9:
		return nil, fmt.Errorf("--rate %d: give at least one a second for each CPU, and at most 1000000000", g.rate)
	case g.openRate < uint64(n) || g.openRate > 1e9:
		return nil, fmt.Errorf("--open-rate %d: give at least one a second for each CPU, and at most 1000000000", g.openRate)
	case g.fresh && g.udp && g.flows > 1:
		return nil, errors.New("--new makes as many connections as there are packets: leave --flows out")
	}
	flows := g.flows
	if g.fresh {
		flows = 1 << 28
	}
	all := wire.Traffic{
		Dst: [6]byte(peer), Client: netip.AddrPortFrom(client, 1024), Service: service,
		PortBits: uint8(bits.TrailingZeros32(g.perClient)),
		UDP:      g.udp, SYN: g.fresh && !g.udp, Random: !g.fresh, Rate: g.rate / uint64(n),
		// A pause of 20 ms a second or two is as good as none.
		Call: 1 << 23,
	}
	headers := 14 + 20 + 20
	if client.Is6() {
		headers += 20
	}
	if g.udp {
		headers -= 12
	}
	if g.size < 60 || g.size > headers+1400 {
		return nil, fmt.Errorf("--size %d: give 60 to %d", g.size, headers+1400)
	}
	g.size = max(g.size, headers)
	all.Payload = g.size - headers
	for i, cpu := range cpus {
		// Each CPU has its own part of the flows.
		from, to := uint64(flows)*uint64(i)/uint64(n), uint64(flows)*uint64(i+1)/uint64(n)
		t := all
		t.Client, t.Flows, t.Seed, t.CPU = all.ClientOf(uint32(from)), uint32(to-from), uint64(i+1), cpu
		list = append(list, t)
	}
	return list, nil
}

// parseCPUs reads a list of CPUs as taskset and cpusets have it.
func parseCPUs(text string) (list []int, err error) {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return nil, fmt.Errorf("cannot read which CPUs this process may use: %w", err)
	}
	if text == "" {
		for cpu := 0; ; cpu++ {
			if may.IsSet(cpu) {
				return []int{cpu}, nil
			}
		}
	}
	bad := fmt.Errorf("--cpu %s: give numbers and ranges of CPUs that this process may use, as 2,4-7", text)
	seen := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, is := strings.Cut(part, "-")
		if !is {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 10)
		to, err2 := strconv.ParseUint(last, 10, 10)
		if err1 != nil || err2 != nil || from > to {
			return nil, bad
		}
		for cpu := int(from); cpu <= int(to); cpu++ {
			if !may.IsSet(cpu) || seen[cpu] {
				return nil, bad
			}
			seen[cpu] = true
			list = append(list, cpu)
		}
	}
	return list, nil
}
