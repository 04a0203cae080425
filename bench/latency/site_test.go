package latency

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// site is one Ethernet segment: a client, a real server, somebody who floods, and a director
// for each way of carrying packets. The real server answers clients directly, with the virtual
// address. Who is where is known to all beforehand.
//
//	client --.          .-- director (one a contender)
//	          > bridge <
//	flooder -'          '-- real server, with two addresses
type site struct {
	testing.TB
	lab                     *lab.Lab
	client, server, flooder *lab.Host
	listener                int // the real server's
	dir, pins, binary       string
	directors               int
	connections             int           // that each daemon has room for
	flows                   atomic.Uint32 // that SYNs were sent of
}

const port = 80

var (
	clientAddr  = netip.MustParseAddr("10.9.0.1")
	serverAddrs = [2]netip.Addr{netip.MustParseAddr("10.9.0.200"), netip.MustParseAddr("10.9.0.201")}
)

// virtual is a virtual address of a director, or of nobody (0).
func virtual(director, kind int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 20, byte(director), byte(1 + kind)})
}

// newSite has room for so many connections in each daemon.
func newSite(t testing.TB, connections int) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces, CPUs and BPF need root")
	}
	s := &site{TB: t, dir: t.TempDir(), connections: connections}
	// Before the hosts are made, which see what is mounted then.
	fs := t.TempDir()
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		t.Fatalf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fs, unix.MNT_DETACH) })
	s.pins, s.binary = fs, s.build()
	var err error
	s.lab, err = lab.New(lab.Config{})
	s.must(err)
	t.Cleanup(func() { s.must(s.lab.Close()) })
	s.client = s.host("client", []string{"10.9.0.1/16"}, [2]string{"net.ipv4.ip_local_port_range", "1024 65535"})
	s.flooder = s.host("flooder", []string{"10.9.0.2/16"})
	// Packets of those to whom it has no route are dropped, and counted.
	s.server = s.host("server", []string{"10.9.0.200/16", "10.9.0.201/16"}, [2]string{"net.ipv4.conf.all.rp_filter", "1"},
		[2]string{"net.ipv4.conf.all.arp_ignore", "1"}, [2]string{"net.ipv4.conf.default.arp_ignore", "1"})
	s.must(s.client.AddRoute(lab.Route{Dst: netip.MustParsePrefix("10.20.0.0/16")}))
	s.knows(s.server, clientAddr, s.client)
	// A frame that XDP sends keeps no checksum that the card was to write.
	s.must(s.client.Do(func() error { return lab.Checksums.Set("eth0", false) }))
	s.must(s.server.Do(s.listen))
	t.Cleanup(func() { _ = unix.Close(s.listener) })
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// host adds one, without IPv6, so that it says nothing by itself.
func (s *site) host(name string, addrs []string, sysctls ...[2]string) *lab.Host {
	s.Helper()
	c := lab.HostConfig{Name: name, Sysctls: append(sysctls,
		[2]string{"-net.ipv6.conf.default.disable_ipv6", "1"}, [2]string{"-net.ipv6.conf.all.disable_ipv6", "1"})}
	for _, a := range addrs {
		c.Addrs = append(c.Addrs, netip.MustParsePrefix(a))
	}
	if name == "server" { // all of the network is its own
		c.Loopback = []netip.Prefix{netip.MustParsePrefix("10.20.0.1/16")}
	}
	h, err := s.lab.Add(c)
	s.must(err)
	return h
}

func (s *site) knows(h *lab.Host, addr netip.Addr, who *lab.Host) {
	s.Helper()
	s.must(h.SetNeighbor(lab.Neighbor{Addr: addr, MAC: who.MAC()}))
}

func (s *site) listen() (err error) {
	s.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Bind(s.listener, &unix.SockaddrInet4{Port: port}), unix.Listen(s.listener, 1024))
}

// director adds a director's host, to which the client sends what is for its virtual addresses.
func (s *site) director(name string) (h *lab.Host, number int) {
	s.Helper()
	s.directors++
	number = s.directors
	h = s.host(name, []string{fmt.Sprintf("10.9.0.%d/16", 100+number)},
		[2]string{"net.ipv4.conf.all.rp_filter", "0"}, [2]string{"net.ipv4.conf.default.rp_filter", "0"},
		[2]string{"net.ipv4.conf.all.send_redirects", "0"}, [2]string{"net.ipv4.conf.default.send_redirects", "0"})
	for _, a := range serverAddrs {
		s.knows(h, a, s.server)
	}
	s.knows(h, clientAddr, s.client)
	for kind := range max(1, len(kinds)) {
		s.knows(s.client, virtual(number, kind), h)
	}
	return h, number
}

// nativeInVeth in the environment has the binary put XDP into the driver of a veth pair too,
// which an operator never wants.
const nativeInVeth = "ULVS_BENCH_NATIVE"

// build makes the binary, as it is but for nativeInVeth.
func (s *site) build() string {
	s.Helper()
	source, err := filepath.Abs("../../dataplane/xdp/native.go")
	s.must(err)
	text, err := os.ReadFile(source)
	s.must(err)
	const quoted = "func native(name string) error {\n"
	if strings.Count(string(text), quoted) != 1 {
		s.Fatalf("%s has no %q any more: change what is quoted here", source, quoted)
	}
	unless := fmt.Sprintf("\tif _, set := unix.Getenv(%q); set {\n\t\treturn nil\n\t}\n", nativeInVeth)
	changed := strings.Replace(string(text), quoted, quoted+unless, 1)
	wrong, overlay := filepath.Join(s.dir, "native.go"), filepath.Join(s.dir, "overlay.json")
	binary := filepath.Join(s.dir, "ulvs")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {source: wrong}})
	s.must(err)
	s.must(os.WriteFile(wrong, []byte(changed), 0o600))
	s.must(os.WriteFile(overlay, list, 0o600))
	build := exec.CommandContext(s.Context(), "go", "build", "-overlay", overlay, "-o", binary, "../../cmd/ulvs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}
