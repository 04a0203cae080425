package director

import (
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/forward"
)

// FTP's data connections come to ports that nobody knows beforehand: what finds no service of its own
// port, and is to such a port, is that of FTP's before that of every port (ip_vs_service_find). Those
// packets are Go's, and no others: the claim of every port leads to a list of steps that look at the port.

// dataSteps have packets be undecided that may be of a data connection. All others go on with the step
// behind them.
var dataSteps = []dataplane.MarkStep{
	{Field: dataplane.DestPortField, Yes: dataplane.UndecidedStep, No: 1, Mask: 0xffff, Low: forward.FTPDataPort},
	{Field: dataplane.DestPortField, Yes: dataplane.UndecidedStep, No: 2, Mask: 0xffff, Low: forward.Unprivileged,
		Span: 0xffff - forward.Unprivileged},
}

// dataList is of dataSteps alone.
var dataList = &dataplane.MarkList{Steps: []dataplane.MarkStep{dataSteps[0], lastStep(dataSteps[1])}}

// lastStep is a step behind which there is none.
func lastStep(s dataplane.MarkStep) dataplane.MarkStep {
	s.No = dataplane.DoneStep
	return s
}

// ofFTP reports the claim of a service of FTP, or of its data connections.
func ofFTP(c dataplane.Claim) bool {
	return c.Last != 0 || c.Port == forward.FTPPort && c.Proto == uint8(ulvs.TCP)
}

// ftp reports whether FTP's rule concerns ports of the endpoint: a service of FTP without persistence
// matters to that of every port only.
func (p *ports) ftp() bool {
	_, has := p.own[forward.FTPPort]
	return p.data || has && p.every != nil && p.proto == uint8(ulvs.TCP)
}

// decideFTP claims every port where no mark decides.
func (p *ports) decideFTP() {
	if !p.ftp() {
		return
	}
	f := elsewhere
	if p.every != nil {
		f = *p.every
	}
	f.list = dataList
	p.claim(0, f)
}

// unlessFTP has what FTP's rule concerns be undecided before a list is followed.
func (f fate) unlessFTP() fate {
	n := uint16(len(dataSteps))
	steps := slices.Clone(dataSteps)
	for _, s := range f.list.Steps {
		for _, to := range []*uint16{&s.Yes, &s.No} {
			if *to != dataplane.DoneStep && *to != dataplane.UndecidedStep {
				*to += n
			}
		}
		steps = append(steps, s)
	}
	if len(steps) > dataplane.MostSteps {
		return undecided
	}
	f.list = &dataplane.MarkList{Steps: steps}
	return f
}
