package ipvsnl

// FamilyID is the message type of the family IPVS. The kernel gives its own families numbers
// below 1,024 (include/net/genetlink.h, GENL_MAX_ID), so that no other has it.
const FamilyID = 0x7a50

// FamilyName is what programs ask the controller for, and the version of the family.
const (
	FamilyName = "IPVS"
	version    = 1
)

// The commands (IPVS_CMD_*).
const (
	cmdNewService = iota + 1
	cmdSetService
	cmdDelService
	cmdGetService
	cmdNewDest
	cmdSetDest
	cmdDelDest
	cmdGetDest
	cmdNewDaemon
	cmdDelDaemon
	cmdGetDaemon
	cmdSetConfig
	cmdGetConfig
	cmdSetInfo
	cmdGetInfo
	cmdZero
	cmdFlush
)

// Attributes of a message (IPVS_CMD_ATTR_*).
const (
	attrService = iota + 1
	attrDest
	attrDaemon
	attrTimeoutTCP
	attrTimeoutTCPFin
	attrTimeoutUDP
	attrs
)

// Attributes of the answer to GET_INFO (IPVS_INFO_ATTR_*).
const (
	infoVersion = iota + 1
	infoSize
)

// Attributes of a service (IPVS_SVC_ATTR_*).
const (
	svcAF = iota + 1
	svcProtocol
	svcAddr
	svcPort
	svcMark
	svcScheduler
	svcFlags
	svcTimeout
	svcNetmask
	svcStats
	svcEngine
	svcStats64
	svcAttrs
)

// Attributes of a real server (IPVS_DEST_ATTR_*).
const (
	destAddr = iota + 1
	destPort
	destForward
	destWeight
	destUpper
	destLower
	destActive
	destInactive
	destPersistent
	destStats
	destAF
	destStats64
	destTunType
	destTunPort
	destTunFlags
	destAttrs
)

// Attributes of a sync daemon (IPVS_DAEMON_ATTR_*).
const (
	daemonState = iota + 1
	daemonInterface
	daemonSyncID
	daemonMaxLen
	daemonGroup
	daemonGroup6
	daemonPort
	daemonTTL
	daemonAttrs
)

// The flags of a service (IP_VS_SVC_F_*).
const (
	flagPersistent = 1 << iota
	flagHashed
	flagOnePacket
	flagSched1
	flagSched2
	flagSched3
)

// How packets reach a real server (IP_VS_CONN_F_*).
const (
	forwardMasq = iota
	forwardLocal
	forwardTunnel
	forwardRoute
	forwardMask = 7
)

// The attributes' bounds (the policies of ip_vs_ctl.c).
const (
	nameMax   = 16 - 1 // of a scheduler or a persistence engine
	ifnameMax = 16 - 1
	addrLen   = 16
	flagsLen  = 8
)

var (
	cmdRules = [attrs]rule{
		attrService: {kind: nested}, attrDest: {kind: nested}, attrDaemon: {kind: nested},
		attrTimeoutTCP: {kind: u32}, attrTimeoutTCPFin: {kind: u32}, attrTimeoutUDP: {kind: u32},
	}
	svcRules = [svcAttrs]rule{
		svcAF: {kind: u16}, svcProtocol: {kind: u16}, svcAddr: {bytesUpTo, addrLen}, svcPort: {kind: u16},
		svcMark: {kind: u32}, svcScheduler: {text, nameMax}, svcFlags: {bytesUpTo, flagsLen},
		svcTimeout: {kind: u32}, svcNetmask: {kind: u32}, svcStats: {kind: nested},
		svcEngine: {text, nameMax}, svcStats64: {kind: nested},
	}
	destRules = [destAttrs]rule{
		destAddr: {bytesUpTo, addrLen}, destPort: {kind: u16}, destForward: {kind: u32}, destWeight: {kind: u32},
		destUpper: {kind: u32}, destLower: {kind: u32}, destActive: {kind: u32}, destInactive: {kind: u32},
		destPersistent: {kind: u32}, destStats: {kind: nested}, destAF: {kind: u16}, destStats64: {kind: nested},
		destTunType: {kind: u8}, destTunPort: {kind: u16}, destTunFlags: {kind: u16},
	}
	daemonRules = [daemonAttrs]rule{
		daemonState: {kind: u32}, daemonInterface: {text, ifnameMax}, daemonSyncID: {kind: u32},
		daemonMaxLen: {kind: u16}, daemonGroup: {kind: u32}, daemonGroup6: {bytesUpTo, addrLen},
		daemonPort: {kind: u16}, daemonTTL: {kind: u8},
	}
)
