package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// statusCommand shows how the daemon works and what it has counted; where none answers,
// what goes on without it.
func statusCommand() *cobra.Command {
	var socket, pin string
	var asJSON, all bool
	c := &cobra.Command{
		Use:   "status",
		Short: "How the daemon takes packets, how full its tables are, and its counters: drops by cause",
		Long: `How the daemon takes packets, how full its tables are, and its counters: drops by
cause. Where no daemon answers, what its pins tell goes on without it, and exit
status 1.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d := control.Dial(socket)
			shown := map[string]any{}
			facts, err := d.Facts()
			var counters map[string]uint64
			if err == nil {
				counters, err = d.Counters()
			}
			if errors.Is(err, ulvs.ErrUnreachable) || errors.Is(err, ulvs.ErrNoAnswer) {
				facts, counters = remains(pinsOf(pin, socket), err)
				shown["error"] = err.Error()
			} else if err != nil {
				return err
			}
			if asJSON {
				shown["facts"], shown["counters"] = facts, counters
				return errors.Join(json.NewEncoder(os.Stdout).Encode(shown), err)
			}
			printStatus(os.Stdout, facts, counters, all)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object: facts and counters; and error, where no daemon answers")
	c.Flags().BoolVar(&all, "all", false, "also the counters that are 0")
	c.Flags().StringVar(&pin, "pin", defaultPins, "where the daemon keeps its state, to be looked at if it does not answer: its --pin `DIR`")
	controlFlag(c, &socket)
	return c
}

// counterGroups are the counters with what they mean, in the order in which a packet
// meets them.
var counterGroups = []struct {
	title string
	names [][2]string
}{
	{"tables", [][2]string{
		{"connections", ""}, {"templates", ""},
		{"half_open", "connections whose client has not answered"},
		{"half_open_evicted", "half-open connections that made room for others"},
		{"templates_evicted", "made room for others: there were as many as there may be"},
		{"templates_unanswered", "of these, by which no connection was established"},
		{"shed", "entries that drop_entry ended"},
	}},
	{"packets", [][2]string{
		{"xdp_frames", "forwarded by the XDP program"},
		{"opened_by_plane", "connections that the XDP program opened itself"},
		{"opened_in_go", "connections that the daemon opened, by cause below"},
		{"states_by_plane", "connections that the XDP program had brought into other states when the daemon looked"},
		{"rx_frames", "given to the daemon by AF_PACKET"},
		{"af_xdp_rx_frames", "given to the daemon by AF_XDP"},
		{"rx_cut", "longer than 64 KiB (BIG TCP): cut into several for the daemon"},
		{"fragments", "fragments that followed a connection"},
		{"fragments_taken", "of these, given to the daemon by AF_XDP; the others by AF_PACKET"},
		{"icmp_errors", "ICMP errors that followed the connection that they are about"},
		{"icmp_errors_taken", "of these, given to the daemon by AF_XDP; the others by AF_PACKET"},
		{"tx_frames", "sent by AF_PACKET"},
		{"af_xdp_tx_frames", "sent by AF_XDP"},
		{"passed", "left to the host"},
		{"answers", "answers given in the host's or IPVS's place"},
		{"address_conflicts", "times that another host answered for a virtual address"},
		{"answered_for_host", "packets among them that were the host's"},
		{"parked", "waited for their server's MAC address"},
		{"next_hops_kept", "times that the kernel's table of neighbours threw out a server or gateway; its MAC address was kept"},
		{"next_hops_asked", "ARP requests and neighbour solicitations of the daemon's own, where the kernel sent none"},
		{"rx_copies", "with tcx: ARP and neighbour discovery, which the host has too"},
		{"rx_not_ours", "broadcast and multicast that asks for nothing"},
	}},
	{"opened by the daemon and not the XDP program", [][2]string{
		{"opened_in_go_service", "its service is named above, at \"opened in Go\""},
		{"opened_in_go_mark", "its mark depends on more than the XDP program looks at: docs/changes.md"},
		{"opened_in_go_reused", "it took the place of another with its ports: conn_reuse_mode, expire_nodest_conn"},
		{"opened_in_go_ftp", "FTP"},
		{"opened_in_go_defense", "drop_packet or secure_tcp was active"},
		{"opened_in_go_source", "its client might be the host itself"},
		{"opened_in_go_fragment", "its first packet was a fragment"},
		{"opened_in_go_icmp", "its first packet was an ICMP error: schedule_icmp"},
		{"opened_in_go_full", "a table was nearly full, or no slot was left"},
		{"opened_in_go_limit", "a real server of its service was at its upper threshold"},
		{"opened_in_go_hop", "its server's MAC address was not known"},
		{"opened_in_go_other", "for another reason: docs/changes.md"},
	}},
	{"dropped by the rules", [][2]string{
		{"dropped", "by AF_PACKET's verdicts, in all"},
		{"drop_server_removed", "their connection's server was removed"},
		{"drop_away", "to an address that the host has not: --while-address"},
		{"drop_no_server", "no usable server: port unreachable was answered"},
		{"drop_connections_full", "there are as many connections as there may be"},
		{"drop_templates_full", "every template controls a connection"},
		{"drop_ttl", "time exceeded was answered"},
		{"drop_too_big", "above the MTU: fragmentation needed was answered"},
		{"drop_no_route", "no route to the server: host unreachable was answered"},
		{"drop_method", "their server is for masquerading or tunnelling"},
		{"drop_local_server", "their server is this host, which cannot be given them"},
		{"drop_ip_options", "broken IP options: parameter problem was answered"},
		{"drop_source_route", "their options say which way to go"},
		{"drop_checksum", "ICMP errors with a wrong checksum"},
		{"drop_fragment", "fragments whose first did not come"},
		{"drop_defense", "by drop_packet"},
		{"drop_engine", "nothing in them for the persistence engine"},
		{"damaged", "contradict themselves; left to the host"},
	}},
	{"answers that were not given", [][2]string{
		{"icmp_limited_client", "the client had been sent enough: icmp_ratelimit"},
		{"icmp_limited_global", "all clients had: icmp_msgs_per_sec"},
		{"rst_limited", "RSTs in the host's place, beyond --rst-limit"},
	}},
	{"lost", [][2]string{
		{"maybe_overtaken", "did not come to the daemon for half a second: lost, or overtaken by later packets of their flow"},
		{"parked_lost", "their server's MAC address was not found"},
		{"rx_ring_lost", "the AF_PACKET ring was full: the daemon came too late"},
		{"rx_syn_lost", "SYNs: the AF_PACKET ring that is theirs alone was full"},
		{"rx_truncated", "longer than 64 KiB and no TCP, or there was no memory for a large frame"},
		{"af_xdp_rx_dropped", "no memory was free for AF_XDP, or the frame was too long"},
		{"af_xdp_rx_ring_full", "the AF_XDP ring was full: the daemon came too late"},
		{"af_xdp_rx_no_fill", "times that AF_XDP found no free memory"},
		{"af_xdp_rx_invalid", "the kernel refused memory for AF_XDP"},
		{"tx_ring_full", "the interface did not take them in time"},
		{"tx_down", "the interface was down or gone"},
		{"tx_malformed", "the kernel refused the frame"},
		{"tx_too_big", "larger than the MTU, and not to be cut"},
		{"tx_no_hop", "for a server that is the host itself"},
		{"tx_no_sender", "no socket could be opened on the interface"},
		{"af_xdp_tx_dropped", "the driver dropped them"},
		{"af_xdp_tx_ring_full", "the interface did not take them in time"},
		{"af_xdp_tx_buffers", "the kernel had no memory"},
		{"af_xdp_tx_down", "the interface was down or gone"},
		{"af_xdp_tx_malformed", "shorter than a header, or longer than a frame"},
		{"af_xdp_tx_no_chunk", "no memory was free"},
		{"af_xdp_tx_invalid", "the kernel refused the frame"},
		{"af_xdp_strange", "memory that the kernel gave back twice; ignored"},
	}},
}

func printStatus(to io.Writer, facts []ulvs.Fact, counters map[string]uint64, all bool) {
	for _, f := range facts {
		fmt.Fprintf(to, "%-24s %s\n", f.Name, f.Value)
	}
	left := maps.Clone(counters)
	line := func(name, text string) string {
		n, is := counters[name]
		delete(left, name)
		if most, limited := counters[name+"_max"]; limited {
			delete(left, name+"_max")
			text = fmt.Sprintf("of %d, %.1f %%", most, 100*float64(n)/float64(max(most, 1)))
		} else if !is || n == 0 && !all {
			return ""
		}
		return strings.TrimRight(fmt.Sprintf("  %-22s %-12d %s", name, n, text), " ") + "\n"
	}
	for _, g := range counterGroups {
		lines := ""
		for _, c := range g.names {
			lines += line(c[0], c[1])
		}
		if lines != "" {
			fmt.Fprintf(to, "%s:\n%s", g.title, lines)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		fmt.Fprint(to, line(name, ""))
	}
}
