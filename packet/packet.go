// Package packet reads Ethernet frames and writes answers to them, without
// allocation. It is for the director, its stages and XDP, and not covered by
// compatibility.
//
// Packet.Parse fills a Packet that the caller owns with what a director needs
// to know: the Flow, that is the key of the connection, fragmentation, TCP
// flags, SCTP chunks, and the packet quoted inside an ICMP error. The Append
// functions build whole frames in answer to a parsed one: echo replies, ICMP
// errors, TCP resets, ARP replies and neighbour advertisements.
//
// Nothing here keeps a frame or has state: everything may be called from many
// goroutines at once, each with a Packet of its own.
package packet

import "net/netip"

// Kind says what a frame carries, and so which fields of Packet are valid.
type Kind uint8

const (
	// Other is neither IP nor ARP: another ethertype, more than two VLAN
	// tags, or ARP for other than Ethernet and IPv4.
	Other Kind = iota
	// Damaged frames contradict themselves; Packet.Damage says how.
	Damaged
	ARP
	TCP
	UDP
	SCTP
	// ICMP is ICMP in IPv4 and ICMPv6 in IPv6.
	ICMP
	// OtherIP is any other protocol in IP.
	OtherIP
)

var kindNames = [...]string{"other", "damaged", "ARP", "TCP", "UDP", "SCTP", "ICMP", "other IP"}

// String is the kind in a word or two.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Damage is the reason for which a frame is Damaged. Zero is no damage.
type Damage uint8

const (
	Undamaged Damage = iota
	// ShortFrame: the frame ends within the Ethernet header or a VLAN tag.
	ShortFrame
	// ShortIP: the frame ends within the IP header.
	ShortIP
	// BadVersion: the IP version is not the one of the ethertype.
	BadVersion
	// BadHeaderLength: the IPv4 header would be shorter than 20 bytes.
	BadHeaderLength
	// BadIPChecksum: the checksum of the IPv4 header is wrong.
	BadIPChecksum
	// BadLength: the IPv4 total length is less than the header's.
	BadLength
	// TruncatedIP: the frame holds less than the IP length says.
	TruncatedIP
	// TruncatedExtension: an IPv6 extension header does not fit.
	TruncatedExtension
	// TooManyExtensions: more than MaxExtensions IPv6 extension headers.
	TooManyExtensions
	// TruncatedTCP: fewer than 20 bytes behind the IP header.
	TruncatedTCP
	// TruncatedUDP: fewer than 8 bytes behind the IP header.
	TruncatedUDP
	// TruncatedSCTP: fewer than 12 bytes behind the IP header.
	TruncatedSCTP
	// TruncatedICMP: fewer than 8 bytes behind the IP header.
	TruncatedICMP
	// TruncatedARP: fewer than 28 bytes.
	TruncatedARP
)

var damageNames = [...]string{
	Undamaged:          "undamaged",
	ShortFrame:         "short frame",
	ShortIP:            "short IP header",
	BadVersion:         "bad IP version",
	BadHeaderLength:    "bad IP header length",
	BadIPChecksum:      "bad IP header checksum",
	BadLength:          "bad IP length",
	TruncatedIP:        "truncated IP datagram",
	TruncatedExtension: "truncated IPv6 extension header",
	TooManyExtensions:  "too many IPv6 extension headers",
	TruncatedTCP:       "truncated TCP header",
	TruncatedUDP:       "truncated UDP header",
	TruncatedSCTP:      "truncated SCTP header",
	TruncatedICMP:      "truncated ICMP header",
	TruncatedARP:       "truncated ARP",
}

// String is the damage in a few words, as counters are named.
func (d Damage) String() string {
	if int(d) < len(damageNames) {
		return damageNames[d]
	}
	return "unknown damage"
}

// MaxExtensions is how many IPv6 extension headers a packet may have before
// it counts as damaged. Real ones have at most a handful.
const MaxExtensions = 16

// IP protocol numbers of which this package knows the headers.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoESP    = 50
	ProtoAH     = 51
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// Flags in Packet.TCPFlags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Packet is what Parse found in a frame. The zero value is a packet of kind
// Other. It keeps nothing of the frame; all offsets count from the frame's
// first byte.
//
// VLANs, EtherType and Kind are valid for every frame (EtherType not for
// ShortFrame). The comments at the other fields say for which kinds they are;
// "IP" stands for TCP, UDP, SCTP, ICMP and OtherIP. Fields that are small are
// zero where they are not valid; Quoted and the addresses of ARP hold remnants
// of earlier frames there, as clearing them would cost every packet.
type Packet struct {
	// Flow, IP: the addresses, family and Proto; the ports too for TCP, UDP
	// and SCTP unless FragOffset is above 0. It is also valid where Damage is
	// TruncatedTCP, TruncatedUDP or TruncatedSCTP, with ports if those were
	// there: IPVS forwards such packets if they belong to a connection
	// (ip_vs_conn_fill_param_proto reads the ports only).
	Flow Flow

	// L3 is where the header behind Ethernet and the VLAN tags starts (every
	// kind but ShortFrame). L4 is where the transport header starts, and for
	// fragments with an offset the data (IP). End is the end of the IP
	// datagram by its own length, without padding (IP), or of ARP; never
	// beyond the frame.
	L3, L4, End int

	Kind      Kind
	Damage    Damage // not zero only when Kind is Damaged
	VLANs     uint8  // VLAN tags before EtherType: 0 to 2
	Proto     uint8  // IP: the protocol behind all IPv6 extension headers
	EtherType uint16 // behind the VLAN tags
	// FragOffset, IP, is in bytes. Above 0 there is no transport header.
	FragOffset uint16
	FragID     uint32 // IP: the identification, when Fragment is set
	TTL        uint8  // IP: time to live or hop limit
	Is6        bool   // IP: IPv6
	DF         bool   // IP: IPv4's don't fragment bit
	// Fragment, IP: this is a part of a fragmented datagram. An IPv6 fragment
	// header around a whole datagram (RFC 6946) does not count.
	Fragment      bool
	MoreFragments bool // IP: not the last fragment

	// Refused, IP: the host refuses it for its options.
	Refused Refusal
	// Records, IPv4: its options are to be filled in on receipt, by Record.
	Records bool

	// TCPFlags, TCP without FragOffset, is the byte as it is on the wire:
	// test single bits, as ECE and CWR may be set.
	TCPFlags uint8

	// ICMPType and ICMPCode, ICMP without FragOffset.
	ICMPType, ICMPCode uint8

	// Chunk is the type of the first SCTP chunk, when HasChunk. NextChunk is
	// the type of the one behind it, when HasNextChunk; looked at only when
	// the first is COOKIE ECHO (10) or COOKIE ACK (11), since IPVS looks for
	// an ABORT there (ip_vs_proto_sctp.c, set_sctp_state).
	Chunk, NextChunk       uint8
	HasChunk, HasNextChunk bool

	// Problem and Pointer, where Refused is BadOption: code and pointer of the ICMP error.
	Problem uint8
	Pointer uint16

	// ARPOp, ARP: 1 is a request, 2 a reply.
	ARPOp uint16
	// ARPSenderMAC, ARPSender and ARPTarget, ARP only.
	ARPSenderMAC         [6]byte
	ARPSender, ARPTarget netip.Addr

	// Quoted, ICMP. Quoted.OK is always valid, the rest when it is set.
	Quoted Quoted
}

// Quoted is the packet quoted inside an ICMP error.
type Quoted struct {
	// OK: the quoted IP header could be read, and for TCP, UDP and SCTP
	// without FragOffset the ports too. Its lengths and checksum are not
	// looked at, as quotes are cut off.
	OK  bool
	Is6 bool
	// Proto is the protocol behind all IPv6 extension headers.
	Proto uint8
	// FragOffset in bytes; above 0 the quote has no transport header.
	FragOffset uint16
	// L3 and L4 are where the quoted IP and transport headers start in the
	// frame.
	L3, L4 int
	// Flow is reversed: its client is the quoted destination and its virtual
	// service the quoted source, because a client's error about a server's
	// answer quotes a packet from the virtual service to the client
	// (ip_vs_core.c, ip_vs_in_icmp). Ports are 0 when FragOffset is above 0
	// or the protocol has none.
	Flow Flow
}

// IsICMPError reports an ICMP message that IPVS takes for an error about a
// connection: IPv4 destination unreachable, source quench and time exceeded,
// and IPv6 types below 128 (ip_vs_core.c, ip_vs_in_icmp, ip_vs_in_icmp_v6).
func (p *Packet) IsICMPError() bool {
	if p.Kind != ICMP || p.FragOffset != 0 {
		return false
	}
	if p.Is6 {
		return p.ICMPType < 128
	}
	return p.ICMPType == 3 || p.ICMPType == 4 || p.ICMPType == 11
}

// IsIP reports an undamaged IP packet of either family.
func (p *Packet) IsIP() bool { return p.Kind >= TCP }

// Source is the source address of an IP packet.
func (p *Packet) Source() netip.Addr { return p.Flow.source() }

// Dest is the destination address of an IP packet.
func (p *Packet) Dest() netip.Addr { return p.Flow.dest() }
