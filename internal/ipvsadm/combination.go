package ipvsadm

// topicSet is a set of topics.
type topicSet uint64

// set is the set of these topics.
func set(ts ...topic) topicSet {
	var s topicSet
	for _, t := range ts {
		s |= 1 << t
	}
	return s
}

// has reports whether any of the topics is in the set.
func (s topicSet) has(ts ...topic) bool { return s&set(ts...) != 0 }

// combination is what may stand beside one verb or tunnel type. What is in no
// set is illegal.
type combination struct {
	name      string
	required  topicSet
	optional  topicSet
	exclusive topicSet // at most one of them
}

var (
	serviceSettings = set(topicScheduler, topicPersistent, topicNetmask, topicOnePacket, topicEngine, topicSchedFlags)
	tunnelSettings  = set(topicTunType, topicTunPort, topicTunNoCsum, topicTunCsum, topicTunRemCsum)
	serverSettings  = set(topicForward, topicWeight, topicUpper, topicLower) | tunnelSettings
)

// verbCombinations is ipvsadm's table of commands against options.
var verbCombinations = [...]combination{
	verbAdd:    {name: "add-service", required: set(topicService), optional: serviceSettings},
	verbEdit:   {name: "edit-service", required: set(topicService), optional: serviceSettings},
	verbDelete: {name: "delete-service", required: set(topicService)},
	verbClear:  {name: "flush"},
	verbList: {
		name: "list",
		optional: set(topicNumeric, topicStats, topicRate, topicThresholds, topicPersistentConn,
			topicNoSort, topicSyncID, topicExact, topicTunInfo),
		exclusive: set(topicConnection, topicService, topicTimeout, topicDaemon),
	},
	verbAddServer:    {name: "add-server", required: set(topicService, topicServer), optional: serverSettings},
	verbDeleteServer: {name: "delete-server", required: set(topicService, topicServer)},
	verbEditServer:   {name: "edit-server", required: set(topicService, topicServer), optional: serverSettings},
	verbSet:          {name: "set"},
	verbStartDaemon: {
		name:     "start-daemon",
		optional: set(topicMcast, topicSyncID, topicMcastGroup, topicMcastPort, topicMcastTTL, topicSyncMaxLen),
	},
	verbStopDaemon: {name: "stop-daemon", optional: set(topicSyncID)},
	verbRestore:    {name: "restore"},
	verbSave:       {name: "save", optional: set(topicNumeric)},
	verbZero:       {name: "zero", optional: set(topicService)},
}

// tunnelCombinations is the same for tunnel types, by ulvs.TunnelType.
var tunnelCombinations = [...]combination{
	{name: "ipip"},
	{name: "gue", required: set(topicTunPort), exclusive: set(topicTunNoCsum, topicTunCsum, topicTunRemCsum)},
	{name: "gre", exclusive: set(topicTunNoCsum, topicTunCsum)},
}

var topicNames = [topics]string{
	"numeric", "connection", "service-address", "scheduler", "persistent", "netmask",
	"real-server", "forwarding-method", "weight", "u-threshold", "l-threshold",
	"mcast-interface", "timeout", "daemon", "stats", "rate", "thresholds",
	"persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags",
	"mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen", "tun-info", "tun-type",
	"tun-port", "tun-nocsum", "tun-csum", "tun-remcsum",
}

// check finds the first topic, among those from first to last, that does not
// go with kind ("command", "tunnel type") c.
func (c *combination) check(kind string, given topicSet, first, last topic) *exit {
	chosen := topics // the exclusive one that was met
	for t := first; t <= last; t++ {
		name := topicNames[t]
		switch {
		case !given.has(t):
			if c.required.has(t) {
				return fail("You need to supply the '%s' option for the '%s' %s", name, c.name, kind)
			}
		case c.exclusive.has(t):
			if chosen != topics {
				return fail("The option '%s' conflicts with the '%s' option in the '%s' %s",
					name, topicNames[chosen], c.name, kind)
			}
			chosen = t
		case !c.required.has(t) && !c.optional.has(t):
			return fail("Illegal '%s' option with the '%s' %s", name, c.name, kind)
		}
	}
	return nil
}
