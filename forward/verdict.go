package forward

// Why packets are dropped.
const (
	dropDamaged = iota
	dropOptions
	dropSourceRoute
	dropDestGone
	dropAway
	dropNoServer
	dropConnsFull
	dropTemplatesFull
	dropTTL
	dropTooBig
	dropNoRoute
	dropMethod
	dropLocal
	dropHost
	dropChecksum
	dropFragment
	dropDefense
	dropEngine
	dropCauses
)

// drops counts dropped packets by cause; dropNames are the names in Counters.
type drops [dropCauses]uint64

var dropNames = [dropCauses]string{
	dropDamaged:       "damaged",             // counted; left to the host
	dropOptions:       "drop_ip_options",     // broken: parameter problem
	dropSourceRoute:   "drop_source_route",   // LSRR and SSRR
	dropDestGone:      "drop_server_removed", // their connection's server was removed
	dropAway:          "drop_away",           // their connection's service is not served now
	dropNoServer:      "drop_no_server",      // no usable server: port unreachable
	dropConnsFull:     "drop_connections_full",
	dropTemplatesFull: "drop_templates_full",
	dropTTL:           "drop_ttl",          // time exceeded
	dropTooBig:        "drop_too_big",      // above the MTU: fragmentation needed
	dropNoRoute:       "drop_no_route",     // no route to the server: host unreachable
	dropMethod:        "drop_method",       // masquerading or tunnelling
	dropLocal:         "drop_local_server", // the server is the director, which the plane keeps them from
	dropHost:          "answered_for_host", // nothing of ours: what the host would have answered
	dropChecksum:      "drop_checksum",     // ICMP errors
	dropFragment:      "drop_fragment",
	dropDefense:       "drop_defense", // drop_packet
	dropEngine:        "drop_engine",  // nothing in it for the persistence engine
}
