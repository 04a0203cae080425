package sched

// none chooses no destination: clients that have a connection or a template keep their servers,
// and others get none (ip_vs_ctl.c, ip_vs_add_service; ip_vs_core.c, ip_vs_schedule).
type none struct{ list }

func newNone(dests []*Dest, _ Flags) Scheduler { return &none{list{dests}} }

func (*none) Schedule(*Request) *Dest { return nil }
