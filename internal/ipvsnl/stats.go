package ipvsnl

import (
	"github.com/mdlayher/netlink"

	"github.com/ulvs/ulvs"
)

// encodeStats encodes counters and rates twice: as programs of before 4.1 read them, and with 64
// bits each (ip_vs_genl_fill_stats, _stats64; IPVS_STATS_ATTR_*).
func encodeStats(e *netlink.AttributeEncoder, old, wide uint16, s *ulvs.Stats, r *ulvs.Rate) {
	values := [...]uint64{s.Conns, s.InPkts, s.OutPkts, s.InBytes, s.OutBytes,
		r.CPS, r.InPPS, r.OutPPS, r.InBPS, r.OutBPS}
	const inBytes, outBytes = 3, 4
	encodeNested(e, old, func(e *netlink.AttributeEncoder) {
		for i, v := range values {
			if i == inBytes || i == outBytes {
				e.Uint64(uint16(i+1), v)
			} else {
				e.Uint32(uint16(i+1), uint32(v))
			}
		}
	})
	encodeNested(e, wide, func(e *netlink.AttributeEncoder) {
		for i, v := range values {
			e.Uint64(uint16(i+1), v)
		}
	})
}
