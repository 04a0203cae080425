package ipvsadm

// The options of ipvsadm. Those with a short form have its letter as their ID.
const (
	optSet optionID = 0x100 + iota
	optStartDaemon
	optStopDaemon
	optSCTP
	optMcastInterface
	optSyncID
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSort
	optEngine
	optMcastGroup
	optMcastPort
	optMcastTTL
	optSyncMaxLen
	optTunInfo
	optTunType
	optTunPort
	optTunNoCsum
	optTunCsum
	optTunRemCsum
)

var optionTable = []option{
	{'A', "add-service", 'A', noValue},
	{'E', "edit-service", 'E', noValue},
	{'D', "delete-service", 'D', noValue},
	{'C', "clear", 'C', noValue},
	{'L', "list", 'L', noValue},
	{'L', "list", 'l', noValue},
	{'Z', "zero", 'Z', noValue},
	{'a', "add-server", 'a', noValue},
	{'e', "edit-server", 'e', noValue},
	{'d', "delete-server", 'd', noValue},
	{optSet, "set", 0, noValue},
	{'h', "help", 'h', noValue},
	{'v', "version", 'v', noValue},
	{'R', "restore", 'R', noValue},
	{'S', "save", 'S', noValue},
	{optStartDaemon, "start-daemon", 0, needsValue},
	{optStopDaemon, "stop-daemon", 0, needsValue},
	{'t', "tcp-service", 't', needsValue},
	{'u', "udp-service", 'u', needsValue},
	{optSCTP, "sctp-service", 0, needsValue},
	{'f', "fwmark-service", 'f', needsValue},
	{'s', "scheduler", 's', needsValue},
	{'p', "persistent", 'p', mayHaveValue},
	{'M', "netmask", 'M', needsValue},
	{'r', "real-server", 'r', needsValue},
	{'m', "masquerading", 'm', noValue},
	{'i', "ipip", 'i', noValue},
	{'g', "gatewaying", 'g', noValue},
	{'w', "weight", 'w', needsValue},
	{'x', "u-threshold", 'x', needsValue},
	{'y', "l-threshold", 'y', needsValue},
	{'n', "numeric", 'n', noValue},
	{'c', "connection", 'c', noValue},
	{optMcastInterface, "mcast-interface", 0, needsValue},
	{optSyncID, "syncid", 0, needsValue},
	{optTimeout, "timeout", 0, noValue},
	{optDaemon, "daemon", 0, noValue},
	{optStats, "stats", 0, noValue},
	{optRate, "rate", 0, noValue},
	{optThresholds, "thresholds", 0, noValue},
	{optPersistentConn, "persistent-conn", 0, noValue},
	{optNoSort, "nosort", 0, noValue},
	{optSort, "sort", 0, noValue},
	{'X', "exact", 'X', noValue},
	{'6', "ipv6", '6', noValue},
	{'o', "ops", 'o', noValue},
	{optEngine, "pe", 0, needsValue},
	{'b', "sched-flags", 'b', needsValue},
	{optMcastGroup, "mcast-group", 0, needsValue},
	{optMcastPort, "mcast-port", 0, needsValue},
	{optMcastTTL, "mcast-ttl", 0, needsValue},
	{optSyncMaxLen, "sync-maxlen", 0, needsValue},
	{optTunInfo, "tun-info", 0, noValue},
	{optTunType, "tun-type", 0, needsValue},
	{optTunPort, "tun-port", 0, needsValue},
	{optTunNoCsum, "tun-nocsum", 0, noValue},
	{optTunCsum, "tun-csum", 0, noValue},
	{optTunRemCsum, "tun-remcsum", 0, noValue},
}

// verb is the command of a line.
type verb uint8

const (
	verbAdd verb = iota
	verbEdit
	verbDelete
	verbClear
	verbList
	verbAddServer
	verbDeleteServer
	verbEditServer
	verbSet
	verbStartDaemon
	verbStopDaemon
	verbRestore
	verbSave
	verbZero
)

// verbs gives each option that is a command its verb.
var verbs = map[optionID]verb{
	'A': verbAdd, 'E': verbEdit, 'D': verbDelete, 'C': verbClear, 'L': verbList,
	'a': verbAddServer, 'd': verbDeleteServer, 'e': verbEditServer, optSet: verbSet,
	optStartDaemon: verbStartDaemon, optStopDaemon: verbStopDaemon,
	'R': verbRestore, 'S': verbSave, 'Z': verbZero,
}

// topic is what an option is about, for the tables of what goes with what:
// -t, -u and -f are all about the service, -g, -i and -m about forwarding.
type topic uint8

// The order is that of the checks, which decides which of several mistakes is
// reported.
const (
	topicNumeric topic = iota
	topicConnection
	topicService
	topicScheduler
	topicPersistent
	topicNetmask
	topicServer
	topicForward
	topicWeight
	topicUpper
	topicLower
	topicMcast
	topicTimeout
	topicDaemon
	topicStats
	topicRate
	topicThresholds
	topicPersistentConn
	topicNoSort
	topicSyncID
	topicExact
	topicOnePacket
	topicEngine
	topicSchedFlags
	topicMcastGroup
	topicMcastPort
	topicMcastTTL
	topicSyncMaxLen
	topicTunInfo
	topicTunType
	topicTunPort
	topicTunNoCsum
	topicTunCsum
	topicTunRemCsum
	topics
)

// topicOf gives each option its topic. Options without one (-6, --sort) may
// stand anywhere, and repeatedly.
var topicOf = map[optionID]topic{
	'n': topicNumeric, 'c': topicConnection,
	't': topicService, 'u': topicService, optSCTP: topicService, 'f': topicService,
	's': topicScheduler, 'p': topicPersistent, 'M': topicNetmask, 'r': topicServer,
	'g': topicForward, 'i': topicForward, 'm': topicForward,
	'w': topicWeight, 'x': topicUpper, 'y': topicLower,
	optMcastInterface: topicMcast, optTimeout: topicTimeout, optDaemon: topicDaemon,
	optStats: topicStats, optRate: topicRate, optThresholds: topicThresholds,
	optPersistentConn: topicPersistentConn, optNoSort: topicNoSort, optSyncID: topicSyncID,
	'X': topicExact, 'o': topicOnePacket, optEngine: topicEngine, 'b': topicSchedFlags,
	optMcastGroup: topicMcastGroup, optMcastPort: topicMcastPort, optMcastTTL: topicMcastTTL,
	optSyncMaxLen: topicSyncMaxLen, optTunInfo: topicTunInfo, optTunType: topicTunType,
	optTunPort: topicTunPort, optTunNoCsum: topicTunNoCsum, optTunCsum: topicTunCsum,
	optTunRemCsum: topicTunRemCsum,
}
