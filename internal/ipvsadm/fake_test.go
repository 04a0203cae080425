package ipvsadm

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ulvs/ulvs"
)

// fakeControl is a table in memory that checks what the kernel checks
// (ip_vs_ctl.c: ip_vs_add_service, ip_vs_edit_service, ip_vs_add_dest, …).
type fakeControl struct {
	ulvs.Control // the methods that ipvsadm must not call: nil, so they panic

	services []ulvs.ServiceStatus
	conns    []ulvs.ConnStatus
	timeouts ulvs.Timeouts
	err      error // every method's answer, when set
	batches  []int // how many changes each had
}

func newFake() *fakeControl {
	return &fakeControl{timeouts: ulvs.Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}}
}

// The kernel's own, so that the fake does not depend on what sched has.
var (
	kernelSchedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"}
	kernelEngines    = []string{"", "sip"}
)

func (f *fakeControl) Batch(changes []ulvs.Change, answer func(int, error) bool) error {
	f.batches = append(f.batches, len(changes))
	for i := range changes {
		if f.err != nil {
			return f.err
		}
		if !answer(i, changes[i].Apply(f)) {
			break
		}
	}
	return nil
}

func (f *fakeControl) Version() (string, int, error) { return "1.2.1", 4096, f.err }

func (f *fakeControl) find(k ulvs.ServiceKey) *ulvs.ServiceStatus {
	for i := range f.services {
		if f.services[i].ServiceKey == k {
			return &f.services[i]
		}
	}
	return nil
}

func (f *fakeControl) check(s ulvs.Service) error {
	if f.err != nil {
		return f.err
	}
	if (s.Mark != 0) == s.Addr.IsValid() {
		return fmt.Errorf("%w: a service has a mark or an address: %+v", ulvs.ErrInvalid, s)
	}
	if s.Mark != 0 && (s.Protocol != 0 || s.Port != 0) {
		return fmt.Errorf("%w: a mark has no port: %+v", ulvs.ErrInvalid, s)
	}
	if m := s.Persistence.Netmask; m.IsValid() && (m.Is6() != s.Is6() || s.Persistence.Timeout == 0) {
		return fmt.Errorf("%w: mask %v", ulvs.ErrInvalid, m)
	}
	return nil
}

func known(s ulvs.Service) error {
	if !slices.Contains(kernelSchedulers, s.Scheduler) || !slices.Contains(kernelEngines, s.Persistence.Engine) {
		return fmt.Errorf("%q %q: %w", s.Scheduler, s.Persistence.Engine, ulvs.ErrNoScheduler)
	}
	return nil
}

func (f *fakeControl) AddService(s ulvs.Service) error {
	if err := f.check(s); err != nil {
		return err
	}
	if f.find(s.ServiceKey) != nil {
		return fmt.Errorf("%v: %w", s.ServiceKey, ulvs.ErrServiceExists)
	}
	if err := known(s); err != nil {
		return err
	}
	f.services = append(f.services, ulvs.ServiceStatus{Service: s})
	return nil
}

func (f *fakeControl) EditService(s ulvs.Service) error {
	if err := f.check(s); err != nil {
		return err
	}
	old := f.find(s.ServiceKey)
	if old == nil {
		return fmt.Errorf("%v: %w", s.ServiceKey, ulvs.ErrNoService)
	}
	if err := known(s); err != nil {
		return err
	}
	old.Service = s
	return nil
}

func (f *fakeControl) DeleteService(k ulvs.ServiceKey) error {
	n := len(f.services)
	f.services = slices.DeleteFunc(f.services, func(s ulvs.ServiceStatus) bool { return s.ServiceKey == k })
	if f.err == nil && len(f.services) == n {
		return ulvs.ErrNoService
	}
	return f.err
}

func (f *fakeControl) Clear() error {
	f.services = nil
	return f.err
}

func (f *fakeControl) server(k ulvs.ServiceKey, ap netip.AddrPort) (*ulvs.ServiceStatus, int, error) {
	s := f.find(k)
	if f.err != nil || s == nil {
		if f.err != nil {
			return nil, 0, f.err
		}
		return nil, 0, ulvs.ErrNoService
	}
	return s, slices.IndexFunc(s.Destinations, func(d ulvs.DestinationStatus) bool { return d.AddrPort() == ap }), nil
}

func checkRange(d ulvs.Destination) error {
	if d.Weight < 0 || d.LowerThreshold > d.UpperThreshold {
		return ulvs.ErrRange
	}
	return nil
}

func (f *fakeControl) AddDestination(k ulvs.ServiceKey, d ulvs.Destination) error {
	s, i, err := f.server(k, d.AddrPort())
	if err != nil {
		return err
	}
	if err := checkRange(d); err != nil {
		return err
	}
	if i >= 0 {
		return ulvs.ErrDestinationExists
	}
	if d.Addr.IsMulticast() || d.Addr.IsUnspecified() || d.Addr == netip.MustParseAddr("255.255.255.255") {
		return ulvs.ErrInvalid
	}
	s.Destinations = slices.Insert(s.Destinations, 0, ulvs.DestinationStatus{Destination: d})
	return nil
}

func (f *fakeControl) EditDestination(k ulvs.ServiceKey, d ulvs.Destination) error {
	s, i, err := f.server(k, d.AddrPort())
	if err != nil {
		return err
	}
	if err := checkRange(d); err != nil {
		return err
	}
	if i < 0 {
		return ulvs.ErrNoDestination
	}
	s.Destinations[i].Destination = d
	return nil
}

func (f *fakeControl) DeleteDestination(k ulvs.ServiceKey, ap netip.AddrPort) error {
	s, i, err := f.server(k, ap)
	if err != nil {
		return err
	}
	if i < 0 {
		return ulvs.ErrNoDestination
	}
	s.Destinations = slices.Delete(s.Destinations, i, i+1)
	return nil
}

func (f *fakeControl) Services() ([]ulvs.ServiceStatus, error) { return f.services, f.err }

func (f *fakeControl) Service(k ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	s := f.find(k)
	if f.err != nil || s == nil {
		if f.err != nil {
			return ulvs.ServiceStatus{}, f.err
		}
		return ulvs.ServiceStatus{}, fmt.Errorf("%v: %w", k, ulvs.ErrNoService)
	}
	return *s, nil
}

func (f *fakeControl) Conns(yield func(ulvs.ConnStatus) bool) error {
	if f.err != nil {
		return f.err
	}
	for _, c := range f.conns {
		if !yield(c) {
			break
		}
	}
	return nil
}

func (f *fakeControl) Zero(k ulvs.ServiceKey) error {
	s := f.find(k)
	if f.err != nil || s == nil {
		if f.err != nil {
			return f.err
		}
		return ulvs.ErrNoService
	}
	s.Stats = ulvs.Stats{}
	for i := range s.Destinations {
		s.Destinations[i].Stats = ulvs.Stats{}
	}
	return nil
}

func (f *fakeControl) ZeroAll() error {
	for _, s := range f.services {
		if err := f.Zero(s.ServiceKey); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fakeControl) Timeouts() (ulvs.Timeouts, error) { return f.timeouts, f.err }

func (f *fakeControl) SetTimeouts(t ulvs.Timeouts) error {
	if f.err != nil {
		return f.err
	}
	for _, p := range []struct {
		to   *time.Duration
		from time.Duration
	}{{&f.timeouts.TCP, t.TCP}, {&f.timeouts.TCPFin, t.TCPFin}, {&f.timeouts.UDP, t.UDP}} {
		if p.from < 0 {
			return ulvs.ErrInvalid
		}
		if p.from > 0 {
			*p.to = p.from
		}
	}
	return nil
}
