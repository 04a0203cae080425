package xdp

import "github.com/ulvs/ulvs/dataplane"

var _ dataplane.Limiting = (*Plane)(nil)

// ErrorLimits implements dataplane.Limiting: what the plane behind says.
func (p *Plane) ErrorLimits() (dataplane.ErrorLimits, error) {
	if l, ok := p.Plane.(dataplane.Limiting); ok {
		return l.ErrorLimits()
	}
	return dataplane.DefaultErrorLimits(), nil
}
