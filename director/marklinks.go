package director

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
)

// markLinks are the plane's interfaces, as the rules of marks name them. What comes by others is
// decided by Go, which asks the resolver for each batch.
type markLinks struct {
	plane    dataplane.Following // or nil: it does not say by which interfaces packets come
	resolver dataplane.Resolver
	// used are those of which the plane has heard, if rules name interfaces.
	used atomic.Pointer[[]fwmark.Link]
}

// read returns the interfaces, if some of these rules name any.
func (m *markLinks) read(rules [2]*fwmark.Table) []fwmark.Link {
	if m.plane == nil || !slices.ContainsFunc(rules[:], names) {
		m.used.Store(nil)
		return nil
	}
	list := m.now()
	m.used.Store(&list)
	return list
}

// names reports whether rules name interfaces.
func names(t *fwmark.Table) bool {
	return slices.ContainsFunc(t.Rules(), func(r fwmark.Rule) bool { return r.In.Name != "" })
}

// changed reports whether they are others than when they were read.
func (m *markLinks) changed() bool {
	used := m.used.Load()
	return used != nil && !slices.Equal(*used, m.now())
}

func (m *markLinks) now() (list []fwmark.Link) {
	for _, l := range m.plane.Links() {
		if name := m.resolver.LinkName(l.Index); l.There() && name != "" {
			list = append(list, fwmark.Link{Number: uint32(l.Index), Name: name})
		}
	}
	slices.SortFunc(list, func(a, b fwmark.Link) int { return cmp.Compare(a.Number, b.Number) })
	return list
}
