package xdp

import (
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
)

// unlimited is a plane in memory whose host answers as often as it is asked: what is limited
// depends on who has answered before.
func unlimited() *dataplanetest.Plane {
	p := dataplanetest.New()
	p.SetErrorLimits(dataplane.ErrorLimits{}, nil)
	return p
}
