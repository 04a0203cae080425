package conformance

import (
	"strings"
	"testing"
)

// TestGeneratorCoverage wants everything that there is in ten of the scenarios
// that CI plays on the kernel and on ulvs, at least.
func TestGeneratorCoverage(t *testing.T) {
	said := make(Coverage)
	for seed := range uint64(500) {
		text := Generate(seed+1, Features{})
		said.Add(text)
		for _, family := range []string{"1", "["} {
			if strings.Contains(text, "sloppy_sctp=1\nipvsadm -A --sctp-service "+family) && strings.Contains(text, "send sctp "+family) {
				said["sloppy SCTP to "+family]++
			}
		}
	}
	want := []string{
		"family IPv4", "family IPv6", "protocol tcp", "protocol udp", "protocol sctp", "protocol icmp", "protocol esp", "protocol ah",
		"iptables", "ip6tables", "sleep", "sloppy SCTP to 1", "sloppy SCTP to [",
	}
	for _, o := range []string{
		"-6", "-M", "-b", "-f", "-g", "-i", "-m", "-o", "-p", "-r", "-s", "-t", "-u", "-w", "-x", "-y",
		"--pe", "--persistent-conn", "--sctp-service", "--stats", "--thresholds", "--tun-type",
	} {
		want = append(want, "option "+o)
	}
	for _, f := range []string{"sh-port", "sh-fallback", "mh-port", "mh-fallback"} {
		want = append(want, "flag "+f)
	}
	for _, p := range []string{"bad", "call", "error", "ext", "first", "frag", "n", "opts", "order", "size", "ttl", "vary"} {
		want = append(want, "packet "+p+"=")
	}
	for _, letter := range tcpLetters {
		want = append(want, "tcp "+string(letter))
	}
	for chunk := range sctpTypes {
		want = append(want, "sctp "+chunk)
	}
	want = append(want, verbsAndMore()...)
	for _, w := range want {
		if said[w] < 10 {
			t.Errorf("%d scenarios say %q, want ten or more", said[w], w)
		}
	}
	t.Logf("in how many of 500:\n%v", said)
}

// verbsAndMore are the names in Coverage of ipvsadm's verbs, the schedulers and the
// sysctls.
func verbsAndMore() (want []string) {
	for _, verb := range []string{"-A", "-E", "-D", "-C", "-Z", "-a", "-e", "-d", "-Ln", "-Lnc", "-Sn", "--set"} {
		want = append(want, "verb "+verb)
	}
	for _, s := range DefaultFeatures.Schedulers {
		want = append(want, "scheduler "+s)
	}
	for name := range genSysctls {
		want = append(want, "sysctl "+name)
	}
	return want
}
