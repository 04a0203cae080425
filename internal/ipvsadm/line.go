package ipvsadm

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/sched"
)

const (
	// defaultPersistence is -p without a value.
	defaultPersistence = 360
	maxTimeout         = 31 * 24 * 60 * 60

	// Names that are longer are cut before the kernel sees them.
	maxSchedulerName = 15
	maxEngineName    = 16
	maxSchedFlags    = 127

	hostMask4 = math.MaxUint32
	hostMask6 = 128
)

// line is what one command line asks for.
type line struct {
	verb     verb
	given    topicSet
	service  ulvs.Service
	family6  bool // of the service, once it was named
	mask4    netip.Addr
	mask6    int
	server   ulvs.Destination
	timeouts ulvs.Timeouts
	format   format
	flags    string // -b, read at the end
}

// parse reads a command line. A word that popt rejects ends the line, but not a
// restore.
func (r *runner) parse(args []string) (*line, *exit) {
	s := newScanner(optionTable, args)
	l := &line{server: ulvs.Destination{Weight: 1}, mask6: hostMask6, mask4: addr4(hostMask4)}
	if e := r.parseVerb(l, s); e != nil {
		return nil, e
	}
	for {
		id, v, more, err := s.scan()
		if err != nil {
			return nil, &exit{code: exitError, text: s.blamed() + ": " + err.Error() + "\n", lineOnly: true}
		}
		if !more {
			break
		}
		if e := r.option(l, id, v, s.blamed()); e != nil {
			return nil, e
		}
	}
	if l.verb == verbSet {
		if e := l.parseTimeouts(s); e != nil {
			return nil, e
		}
	}
	if w, ok := s.argument(); ok {
		return nil, fail("unexpected argument %s", w)
	}
	if l.flags != "" {
		flags, e := parseSchedFlags(l.service.Scheduler, l.flags)
		if e != nil {
			return nil, e
		}
		l.service.SchedFlags = flags
	}
	return l, nil
}

// parseVerb reads the first option, which must be a command.
func (r *runner) parseVerb(l *line, s *scanner) *exit {
	id, v, more, err := s.scan()
	if err != nil || !more {
		return tryHelp(s.args)
	}
	switch id {
	case 'h':
		return &exit{out: usage(s.args)}
	case 'v':
		return &exit{out: versionText}
	case optStartDaemon:
		if v.text != "master" && v.text != "backup" {
			return fail("illegal start-daemon parameter specified")
		}
	case optStopDaemon:
		if v.text != "master" && v.text != "backup" {
			return fail("illegal start_daemon specified")
		}
	}
	var ok bool
	if l.verb, ok = verbs[id]; !ok {
		return tryHelp(s.args)
	}
	return nil
}

// option takes one more option into the line.
func (r *runner) option(l *line, id optionID, v value, word string) *exit {
	if t, ok := topicOf[id]; ok {
		if l.given.has(t) {
			return fail("multiple '%s' options specified", topicNames[t])
		}
		l.given |= set(t)
	}
	switch id {
	case 't', 'u', optSCTP:
		return r.serviceAddress(l, id, v.text)
	case 'f':
		n, ok := parseNumber(v.text, 1, math.MaxUint32)
		if !ok {
			return fail("invalid fwmark value `%s' specified", v.text)
		}
		l.service.Mark = uint32(n)
		l.service.Protocol = ulvs.TCP // for the ports of -r
		l.family6 = false
	case '6':
		if l.service.Mark == 0 {
			return fail("-6 used before -f\n")
		}
		l.family6, l.mask6 = true, hostMask6
	case 's':
		l.service.Scheduler = cut(v.text, maxSchedulerName)
	case 'p':
		seconds, e := parseTimeout(v, 1)
		if e != nil {
			return e
		}
		l.service.Persistence.Timeout = seconds
	case 'M':
		return r.netmask(l, v.text)
	case 'o':
		l.service.OnePacket = true
	case optEngine:
		l.service.Persistence.Engine = cut(v.text, maxEngineName)
	case 'b':
		l.flags = cut(v.text, maxSchedFlags)
	case 'r':
		return r.serverAddress(l, v.text)
	case 'n', 'X', optStats, optRate, optThresholds, optPersistentConn, optNoSort, optTunInfo:
		l.format |= formatOf[id]
	case 'c', optTimeout, optDaemon, optSort, optMcastInterface:
	case optSyncID, optMcastGroup, optMcastPort, optMcastTTL, optSyncMaxLen:
		return checkDaemonOption(id, v.text)
	case 'g', 'i', 'm', 'w', 'x', 'y', optTunType, optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum:
		return l.serverOption(id, v.text)
	default: // a second command
		return fail("invalid option `%s'", word)
	}
	return nil
}

func (r *runner) serviceAddress(l *line, id optionID, text string) *exit {
	p := map[optionID]ulvs.Protocol{'t': ulvs.TCP, 'u': ulvs.UDP, optSCTP: ulvs.SCTP}[id]
	l.service.Protocol = p
	a, port, _, ok := r.parseService(text, p)
	if !ok {
		return fail("illegal virtual server address[:port] specified")
	}
	l.service.Addr, l.service.Port = a, port
	if l.family6 = a.Is6(); l.family6 {
		l.mask6 = hostMask6
	}
	return nil
}

func (r *runner) serverAddress(l *line, text string) *exit {
	a, port, hasPort, ok := r.parseService(text, l.service.Protocol)
	if !ok {
		return fail("illegal real server address[:port] specified")
	}
	if !hasPort {
		port = l.service.Port // of a service that was named before
	}
	l.server.Addr, l.server.Port = a, port
	return nil
}

// netmask reads -M: a prefix length when an IPv6 service was named before it,
// else an IPv4 address or a name.
func (r *runner) netmask(l *line, text string) *exit {
	if l.family6 {
		n, _, _ := parseLong(text)
		l.mask6 = int(int32(n)) // as atoi
		if l.mask6 < 1 || l.mask6 > hostMask6 {
			return fail("illegal ipv6 netmask specified")
		}
		return nil
	}
	var ok bool
	if l.mask4, ok = r.parseHost(text); !ok {
		return fail("illegal virtual server persistent mask specified")
	}
	return nil
}

// finish brings the service into the form that Control takes, once all options
// are known.
func (l *line) finish() {
	s := &l.service
	if s.Mark != 0 {
		s.Protocol = 0
		s.IPv6 = l.family6
	}
	if s.Persistence.Timeout == 0 {
		return // a mask means nothing then
	}
	switch {
	case l.family6 && l.mask6 != hostMask6:
		s.Persistence.Netmask = prefixMask(l.mask6)
	case !l.family6 && l.mask4 != addr4(hostMask4):
		s.Persistence.Netmask = l.mask4
	}
}

func (l *line) parseTimeouts(s *scanner) *exit {
	var seconds [3]time.Duration
	var words [3]string
	for i := range words {
		var ok bool
		if words[i], ok = s.argument(); !ok {
			return fail("--set option requires 3 timeout values")
		}
	}
	for i, w := range words {
		var e *exit
		if seconds[i], e = parseTimeout(value{w, true}, 0); e != nil {
			return e
		}
	}
	l.timeouts = ulvs.Timeouts{TCP: seconds[0], TCPFin: seconds[1], UDP: seconds[2]}
	return nil
}

func parseTimeout(v value, low int64) (time.Duration, *exit) {
	if !v.given {
		return defaultPersistence * time.Second, nil
	}
	n, ok := parseNumber(v.text, low, maxTimeout)
	if !ok {
		return 0, fail("invalid timeout value `%s' specified", v.text)
	}
	return time.Duration(n) * time.Second, nil
}

// schedFlag is a flag's name in -b. scheduler is the only one that has it; ""
// is any.
type schedFlag struct {
	name      string
	scheduler string
	flag      sched.Flags
}

var schedFlags = []schedFlag{
	{"flag-1", "", sched.Flag1},
	{"flag-2", "", sched.Flag2},
	{"flag-3", "", sched.Flag3},
	{"sh-fallback", "sh", sched.Flag1},
	{"sh-port", "sh", sched.Flag2},
	{"mh-fallback", "mh", sched.Flag1},
	{"mh-port", "mh", sched.Flag2},
}

// parseSchedFlags reads -b, a list of flags with commas.
func parseSchedFlags(scheduler, text string) (sched.Flags, *exit) {
	if scheduler == "" {
		scheduler = sched.Default
	}
	var flags sched.Flags
	names := strings.FieldsFunc(text, func(c rune) bool { return c == ',' })
	if len(names) == 0 { // the original crashes
		return 0, fail("invalid scheduler flag `%s'", text)
	}
next:
	for _, name := range names {
		for _, f := range schedFlags {
			if f.name != name {
				continue
			}
			if f.scheduler != "" && f.scheduler != scheduler {
				return 0, fail("incompatible scheduler flag `%s'", name)
			}
			flags |= f.flag
			continue next
		}
		return 0, fail("invalid scheduler flag `%s'", name)
	}
	return flags, nil
}
