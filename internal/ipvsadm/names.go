package ipvsadm

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ulvs/ulvs"
)

// Names is the name service of a command line: hosts and ports, both ways.
type Names interface {
	// Host is the IPv4 address of a name (gethostbyname).
	Host(name string) (netip.Addr, bool)
	// Addr is the name of an address (gethostbyaddr), without a final dot.
	Addr(netip.Addr) (string, bool)
	// Port is the port of a service's name or alias (getservbyname).
	Port(service string, p ulvs.Protocol) (uint16, bool)
	// Service is the name of a port (getservbyport).
	Service(port uint16, p ulvs.Protocol) (string, bool)
}

// patience bounds what one SystemNames waits for name servers that do not
// answer, all its lookups together: a listing of a thousand addresses must not
// hang because the network is down.
const patience = 2 * time.Second

// SystemNames answers from /etc/hosts and /etc/services, then asks the name
// servers of /etc/resolv.conf. It follows the usual order, files first, whatever
// /etc/nsswitch.conf says. Make one for each command line: it reads the files
// once, and gives up on name servers after 2 s of silence. It is safe for
// concurrent use.
type SystemNames struct {
	resolver *net.Resolver
	hosts    func() []hostLine
	services func() []serviceLine

	mu    sync.Mutex
	names map[netip.Addr]string // as long as one listing; "" is a name that is not there
	left  time.Duration         // of patience
}

var _ Names = (*SystemNames)(nil)

// NewSystemNames makes a SystemNames of this machine's files and servers.
func NewSystemNames() *SystemNames {
	return namesFrom("/etc/hosts", "/etc/services", &net.Resolver{PreferGo: true})
}

func namesFrom(hosts, services string, r *net.Resolver) *SystemNames {
	return &SystemNames{
		resolver: r,
		hosts:    sync.OnceValue(func() []hostLine { return readLines(hosts, parseHostLine) }),
		services: sync.OnceValue(func() []serviceLine { return readLines(services, parseServiceLine) }),
		names:    map[netip.Addr]string{},
		left:     patience,
	}
}

// Host implements Names.
func (s *SystemNames) Host(name string) (netip.Addr, bool) {
	// What looks like an address but is none is not a name: the C library
	// does not ask for it either.
	if strings.Trim(name, "0123456789.") == "" {
		return netip.Addr{}, false
	}
	for _, h := range s.hosts() {
		if !h.addr.Is4() {
			continue
		}
		for _, n := range h.names {
			if strings.EqualFold(n, name) {
				return h.addr, true
			}
		}
	}
	var found netip.Addr
	s.ask(func(ctx context.Context) error {
		addrs, err := s.resolver.LookupNetIP(ctx, "ip4", name)
		if err == nil && len(addrs) > 0 {
			found = addrs[0].Unmap()
		}
		return err
	})
	return found, found.IsValid()
}

// Addr implements Names.
func (s *SystemNames) Addr(a netip.Addr) (string, bool) {
	s.mu.Lock()
	name, ok := s.names[a]
	s.mu.Unlock()
	if ok {
		return name, name != ""
	}
	for _, h := range s.hosts() {
		if h.addr == a {
			name = h.names[0]
			break
		}
	}
	if name == "" {
		s.ask(func(ctx context.Context) error {
			names, err := s.resolver.LookupAddr(ctx, a.String())
			if err == nil && len(names) > 0 {
				name = strings.TrimSuffix(names[0], ".")
			}
			return err
		})
	}
	s.mu.Lock()
	s.names[a] = name
	s.mu.Unlock()
	return name, name != ""
}

// ask carries out a lookup within what is left of the patience, and charges it
// for the time unless an answer came, be it a negative one.
func (s *SystemNames) ask(lookup func(context.Context) error) {
	s.mu.Lock()
	left := s.left
	s.mu.Unlock()
	if left <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), left)
	defer cancel()
	start := time.Now()
	err := lookup(ctx)
	var answer *net.DNSError
	if err == nil || (errors.As(err, &answer) && answer.IsNotFound) {
		return
	}
	s.mu.Lock()
	s.left -= time.Since(start)
	s.mu.Unlock()
}

// Port implements Names.
func (s *SystemNames) Port(service string, p ulvs.Protocol) (uint16, bool) {
	proto := strings.ToLower(p.String())
	for _, l := range s.services() {
		if l.proto != proto {
			continue
		}
		for _, n := range l.names {
			if n == service {
				return l.port, true
			}
		}
	}
	return 0, false
}

// Service implements Names.
func (s *SystemNames) Service(port uint16, p ulvs.Protocol) (string, bool) {
	proto := strings.ToLower(p.String())
	for _, l := range s.services() {
		if l.port == port && l.proto == proto {
			return l.names[0], true
		}
	}
	return "", false
}

// hostLine is a line of /etc/hosts; names is not empty.
type hostLine struct {
	addr  netip.Addr
	names []string
}

func parseHostLine(words []string) (hostLine, bool) {
	if len(words) < 2 {
		return hostLine{}, false
	}
	a, err := netip.ParseAddr(words[0])
	return hostLine{a, words[1:]}, err == nil
}

// serviceLine is a line of /etc/services: the name and then its aliases.
type serviceLine struct {
	port  uint16
	proto string
	names []string
}

func parseServiceLine(words []string) (serviceLine, bool) {
	if len(words) < 2 {
		return serviceLine{}, false
	}
	number, proto, ok := strings.Cut(words[1], "/")
	port, err := strconv.ParseUint(number, 10, 16)
	names := append([]string{words[0]}, words[2:]...)
	return serviceLine{uint16(port), proto, names}, ok && err == nil
}

// readLines parses the lines of a file, without comments; lines that make no
// sense, and files that are not there, are passed over as the C library does.
func readLines[T any](path string, parse func(words []string) (T, bool)) []T {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []T
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if l, ok := parse(strings.Fields(line)); ok {
			out = append(out, l)
		}
	}
	return out
}
