package conformance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Features say what a generated scenario may use.
type Features struct {
	// Schedulers by name; none is DefaultFeatures'.
	Schedulers []string
	// Without are kinds of statement to leave out, by the names in Kinds: for
	// differences that are known already.
	Without []string
	// Brief makes scenarios of a few statements, without long sleeps.
	Brief bool
}

// DefaultFeatures are what ulvs has, but for twos, which draws lots.
var DefaultFeatures = Features{Schedulers: []string{
	"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh",
}}

// Kinds are what Features.Without may name.
var Kinds = []string{
	"stats", "timed", "ftp", "marks", "ops", "persistence", "thresholds", "sctp", "udp", "ipv6",
	"sloppy_tcp", "sloppy_sctp", "conn_reuse_mode", "expire_nodest_conn", "expire_quiescent_template",
	"backup_only", "schedule_icmp", "secure_tcp", "drop_entry", "drop_packet", "cache_bypass", "lblc_expiration", "lblcr_expiration",
	"sched-flags", "pe", "delete", "clear", "edit-service", "zero", "port20", "icmp", "method", "icmp-error", "ttl", "size", "set", "frag", "badsum",
	"odd-source", "options", "extensions", "ipsec", "gone",
}

// The generator keeps clear of what DIFFERENCES.md names, and of races. Where
// it lets time pass at all, the times between any two moments are 1 or at least
// 6 s (sleeps are 1 or 6, and no two of 1 s follow one another), timeouts that
// shall run out are 3 s, CLOSE's 10 s lie between 8 and 12, and all others are
// far away. What is set to zero loses what the estimator, every 2 s, has
// counted: no zeroing where counters are listed. What a scenario shortens is the
// connections' timeouts or the templates', not both: they would end together. Of
// IPv4 one service always stays: that of ulvs's barriers is one too. IPv6 extension
// headers are for what has no flags, and authentication is none of them.

// generator makes one scenario.
type generator struct {
	*rand.Rand
	side     *rand.Rand // draws what was thought of later, so that the rest of a seed stays what it is
	f        Features
	lines    []string
	vips     []string
	services []*genService
	short    string // "conns" or "templates": what has a timeout of 3 s
	napped   bool   // the last sleep was 1 s
	stats    bool   // counters are listed at the end
}

// genService is a service that exists.
type genService struct {
	key     string // as in "-t 192.168.10.101:80"
	six     bool
	proto   string // "" for marks
	vip     string
	port    int
	mark    int
	sip     bool     // has the persistence engine
	servers []string // that exist, as -r wants them
	gone    []string // that do not
	deleted bool     // for now
}

// Generate makes the scenario of a seed. Equal arguments give equal texts.
func Generate(seed uint64, f Features) string {
	if len(f.Schedulers) == 0 {
		f.Schedulers = DefaultFeatures.Schedulers
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x756c7673)), side: rand.New(rand.NewPCG(seed, 1)), f: f}
	g.scenario()
	return strings.Join(g.lines, "\n") + "\n"
}

func (g *generator) say(format string, args ...any) {
	g.lines = append(g.lines, strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " "))
}

// chance is true in percent of the cases, if the kind is not left out.
func (g *generator) chance(percent int, kind string) bool {
	hit := g.IntN(100) < percent // drawn in any case, so that a seed stays what it is
	return hit && !slices.Contains(g.f.Without, kind)
}

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

func (g *generator) scenario() {
	g.vips = []string{"192.168.10.101"}
	six := g.chance(35, "ipv6")
	if six {
		g.vips = append(g.vips, "fd00:10::101")
	}
	if g.chance(25, "") {
		g.vips = append(g.vips, "192.168.10.102")
	}
	if six && g.chance(40, "") {
		g.vips = g.vips[1:] // IPv6 alone, or with .102
	}
	g.say("vip %s", strings.Join(g.vips, " "))
	if g.chance(12, "timed") && !g.f.Brief {
		g.short = pick(g, "conns", "templates")
	}
	g.stats = g.short == "" && g.chance(5, "stats") && !g.f.Brief
	if g.short == "conns" {
		g.say("ipvsadm --set 3 3 3")
	}
	if g.chance(50, "") {
		g.sysctl()
	}
	for range 1 + g.IntN(3) {
		g.service()
	}
	rounds, batches := 4+g.IntN(8), 4
	if g.f.Brief {
		rounds, batches = 2+rounds/3, 2
	}
	for range rounds {
		for range 1 + g.IntN(batches) {
			g.traffic()
		}
		g.event()
		if g.short != "" && g.chance(45, "") {
			g.sleep()
		}
	}
	for range 1 + g.IntN(3) {
		g.traffic()
	}
	if g.stats {
		g.say("sleep 6")
		g.say("show -Ln --stats")
	}
	g.say("show -Ln")
	g.say("show -Lnc")
}

func (g *generator) sleep() {
	d := pick(g, 1, 6)
	if g.napped {
		d = 6
	}
	g.napped = d == 1
	g.say("sleep %d", d)
}

// service adds a service with its servers and, for a mark, the rule.
func (g *generator) service() {
	s := &genService{vip: pick(g, g.vips...)}
	s.six = strings.Contains(s.vip, ":")
	host := s.vip
	if s.six {
		host = "[" + s.vip + "]"
	}
	if g.chance(20, "marks") {
		s.mark = 1 + g.IntN(2)
		s.key = fmt.Sprintf("-f %d", s.mark)
		if s.six {
			s.key += " -6"
		}
	} else {
		s.proto = pick(g, "tcp", "tcp", "tcp", "udp", "sctp")
		if slices.Contains(g.f.Without, s.proto) {
			s.proto = "tcp"
		}
		s.port = pick(g, 80, 80, 443, 443, 0)
		if g.chance(8, "ftp") {
			s.port = 21
		}
		if g.chance(30, "ipsec") && s.proto == "udp" {
			s.port = isakmp
		}
		if slices.Contains(g.f.Without, "persistence") && s.port == 0 {
			s.port = 80
		}
		opt := map[string]string{"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}[s.proto]
		s.key = fmt.Sprintf("%s %s:%d", opt, host, s.port)
	}
	if slices.ContainsFunc(g.services, func(o *genService) bool { return o.key == s.key }) {
		return
	}
	g.services = append(g.services, s)
	if s.mark > 0 {
		for range 1 + g.IntN(2) {
			g.markRule(s)
		}
	}
	g.sloppy(s)
	g.say("ipvsadm -A %s", g.settings(s))
	for _, n := range g.Perm(serverCount)[:1+g.IntN(serverCount)] {
		r := serverAddr(n, s.six)
		s.servers = append(s.servers, r)
		if g.chance(6, "method") && !s.six {
			// A method that ulvs does not have yet: such a server gets no packets.
			g.say("ipvsadm -a %s -r %s %s -w 0", s.key, r, pick(g, "-m", "-i", "-i --tun-type gre", "-i --tun-type gue --tun-port 6080"))
			continue
		}
		g.addServer(s, r)
	}
}

func serverAddr(n int, six bool) string {
	if six {
		return fmt.Sprintf("[%v]", addr6(serverNumber+n))
	}
	return addr4(serverNumber + n).String()
}

func (g *generator) markRule(s *genService) {
	program := "iptables"
	if s.six {
		program = "ip6tables"
	}
	match := pick(g, "", "-p tcp", "-p udp", "-p tcp --dport 80", "-p tcp -m multiport --dports 80,443", "-p udp --dport 80", "-p tcp --dport 1:1023")
	g.say("%s -t mangle -A PREROUTING -d %s %s -j MARK --set-mark %d", program, s.vip, match, s.mark)
}

// settings is a service with what -A and -E may say of it.
func (g *generator) settings(s *genService) string {
	scheduler := pick(g, g.f.Schedulers...)
	words := s.key + " -s " + scheduler
	if scheduler == "sh" || scheduler == "mh" {
		if flags := pick(g, "", "$-port", "$-fallback", "$-port,$-fallback"); flags != "" && g.chance(100, "sched-flags") {
			words += " -b " + strings.ReplaceAll(flags, "$", scheduler)
		}
	}
	if (s.port == 0 && s.mark == 0) || g.chance(35, "persistence") {
		switch {
		case g.short == "templates":
			words += " -p 3"
		default:
			words += pick(g, " -p", " -p 60", " -p 300")
		}
		if g.chance(40, "") {
			if s.six {
				words += pick(g, " -M 64", " -M 120", " -M 128")
			} else {
				words += pick(g, " -M 255.255.255.0", " -M 255.255.0.0", " -M 255.0.255.0", " -M 255.255.255.255")
			}
		}
		if s.sip = s.proto == "udp" && g.chance(25, "pe"); s.sip {
			words += " --pe sip"
		}
	}
	if (s.proto == "udp" || s.mark > 0) && g.chance(25, "ops") {
		words += " -o"
	}
	return words
}

func (g *generator) addServer(s *genService, r string) {
	g.say("ipvsadm -a %s -r %s -g %s", s.key, g.realServer(s, r), g.serverSettings())
}

// realServer is an address as -r wants it: an IPv6 one needs its port.
func (g *generator) realServer(s *genService, r string) string {
	if s.six {
		return fmt.Sprintf("%s:%d", r, s.port)
	}
	return r
}

func (g *generator) serverSettings() string {
	words := pick(g, "", "", "-w 1", "-w 2", "-w 3", "-w 10", "-w 0", "-w 100")
	if g.chance(14, "thresholds") {
		upper := 1 + g.IntN(6)
		words += fmt.Sprintf(" -x %d", upper)
		if g.chance(50, "") {
			words += fmt.Sprintf(" -y %d", g.IntN(upper+1))
		}
	}
	return words
}

var genSysctls = map[string][]int{
	"conn_reuse_mode": {0, 1, 2, 3}, "expire_nodest_conn": {0, 1}, "expire_quiescent_template": {0, 1},
	"sloppy_tcp": {0, 1}, "sloppy_sctp": {0, 1}, "backup_only": {0, 1}, "schedule_icmp": {0, 1},
	"secure_tcp": {0, 1, 2, 3}, "drop_entry": {0, 1}, "drop_packet": {0, 1}, "cache_bypass": {0, 1},
	"lblc_expiration": {86400, 60}, "lblcr_expiration": {86400, 60},
}

func (g *generator) sysctl() {
	name := pick(g, "conn_reuse_mode", "expire_nodest_conn", "expire_nodest_conn", "expire_quiescent_template", "sloppy_tcp", "sloppy_sctp",
		"backup_only", "schedule_icmp", "schedule_icmp", "secure_tcp", "secure_tcp", "drop_entry", "drop_packet", "cache_bypass",
		"lblc_expiration", "lblcr_expiration")
	if value := pick(g, genSysctls[name]...); g.chance(100, name) {
		g.say("sysctl net.ipv4.vs.%s=%d", name, value)
	}
}

// event changes something, or looks.
func (g *generator) event() {
	s := pick(g, g.services...)
	if s.deleted {
		if g.chance(40, "") {
			g.again(s)
		}
		return
	}
	switch n := g.IntN(100); {
	case n < 14:
		if len(s.servers) > 0 {
			g.say("ipvsadm -e %s -r %s -g %s", s.key, g.realServer(s, pick(g, s.servers...)), pick(g, "-w 0", "-w 0", "-w 1", "-w 2", g.serverSettings()))
		}
	case n < 26:
		if i := len(s.servers) - 1; i >= 0 {
			r := s.servers[i]
			s.servers, s.gone = s.servers[:i], append(s.gone, r)
			g.say("ipvsadm -d %s -r %s", s.key, g.realServer(s, r))
		}
	case n < 38:
		if i := len(s.gone) - 1; i >= 0 {
			r := s.gone[i]
			s.servers, s.gone = append(s.servers, r), s.gone[:i]
			g.addServer(s, r)
			return
		}
		g.newServer(s)
	case n < 46:
		if g.chance(100, "edit-service") {
			g.say("ipvsadm -E %s", g.settings(s))
		}
	case n < 49:
		if g.chance(100, "zero") && !g.stats {
			g.say("ipvsadm -Z %s", pick(g, "", s.key))
		}
	case n < 52:
		if g.short == "" && g.chance(100, "set") {
			g.say("ipvsadm --set %s", pick(g, "900 120 300", "0 40 0", "60 0 60", "30 30 30"))
		}
	case n < 60:
		g.sysctl()
	case n < 64:
		if g.chance(100, "delete") && !g.stats {
			g.say("ipvsadm -D %s", s.key)
			if s.deleted = g.chance(60, "gone") && g.mayStayDeleted(s); !s.deleted {
				g.again(s)
			}
		}
	case n < 66:
		// With expire_nodest_conn, what it ends depends on whether there is a
		// server to be removed; that of ulvs's barriers always is.
		if g.chance(100, "clear") && !g.stats &&
			slices.ContainsFunc(g.services, func(s *genService) bool { return len(s.servers) > 0 }) {
			g.say("ipvsadm -C")
			for _, s := range g.services {
				g.again(s)
			}
		}
	case n < 68:
		g.wrong(s)
	default:
		g.say("show %s", pick(g, "-Ln", "-Ln", "-Lnc", "-Lnc", "-Sn", "-Ln --thresholds", "-Ln --persistent-conn", "-Ln "+s.key))
	}
}

// again brings a deleted service back.
func (g *generator) again(s *genService) {
	s.deleted = false
	g.say("ipvsadm -A %s", g.settings(s))
	for _, r := range s.servers {
		g.addServer(s, r)
	}
}

// newServer adds a server that the service has never had.
func (g *generator) newServer(s *genService) {
	for n := range serverCount {
		if r := serverAddr(n, s.six); !slices.Contains(s.servers, r) && !slices.Contains(s.gone, r) {
			s.servers = append(s.servers, r)
			g.addServer(s, r)
			return
		}
	}
}

// wrong gives a command that is refused, as its object is there, or is not.
func (g *generator) wrong(s *genService) {
	switch g.IntN(3) {
	case 0:
		g.say("ipvsadm -A %s", g.settings(s))
	case 1:
		if len(s.servers) > 0 {
			g.addServer(s, s.servers[0])
		}
	case 2:
		if len(s.gone) > 0 {
			g.say("ipvsadm -d %s -r %s", s.key, g.realServer(s, s.gone[0]))
		}
	}
}
