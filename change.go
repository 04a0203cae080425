package ulvs

import "fmt"

// Verb names a method of Control that a Change stands for.
type Verb string

// The verbs of changes, by the control socket's words.
const (
	VerbAddService        Verb = "service/add"
	VerbEditService       Verb = "service/edit"
	VerbDeleteService     Verb = "service/delete"
	VerbClear             Verb = "clear"
	VerbZero              Verb = "service/zero"
	VerbZeroAll           Verb = "zero"
	VerbAddDestination    Verb = "destination/add"
	VerbEditDestination   Verb = "destination/edit"
	VerbDeleteDestination Verb = "destination/delete"
	VerbSetTimeouts       Verb = "timeouts"
)

// Change is a command of a batch: a verb, and what its method is given.
type Change struct {
	Verb Verb `json:"do"`
	// Service is for VerbAddService and VerbEditService.
	Service Service `json:"service,omitzero"`
	// Key is for the other verbs of a service, and for those of its real servers.
	Key ServiceKey `json:"key,omitzero"`
	// Destination is a real server; for VerbDeleteDestination its address and port.
	Destination Destination `json:"destination,omitzero"`
	Timeouts    Timeouts    `json:"timeouts,omitzero"`
}

// Apply carries the change out alone. The error is that of the verb's method, or
// ErrInvalid for a verb that is none.
func (c *Change) Apply(to Control) error {
	switch c.Verb {
	case VerbAddService:
		return to.AddService(c.Service)
	case VerbEditService:
		return to.EditService(c.Service)
	case VerbDeleteService:
		return to.DeleteService(c.Key)
	case VerbClear:
		return to.Clear()
	case VerbZero:
		return to.Zero(c.Key)
	case VerbZeroAll:
		return to.ZeroAll()
	case VerbAddDestination:
		return to.AddDestination(c.Key, c.Destination)
	case VerbEditDestination:
		return to.EditDestination(c.Key, c.Destination)
	case VerbDeleteDestination:
		return to.DeleteDestination(c.Key, c.Destination.AddrPort())
	case VerbSetTimeouts:
		return to.SetTimeouts(c.Timeouts)
	}
	return fmt.Errorf("%w: a change %q: there is no such verb", ErrInvalid, c.Verb)
}
