// Package ipvsadm is ipvsadm 1.31 over a ulvs.Control: the same options, texts
// and exit codes, byte for byte (ipvsadm.c, libipvs.c, and popt 1.19 for the
// options), as Debian's binary shows them on Linux 6.1.
//
// It differs on purpose where the original
//   - has a sync daemon: --start-daemon says that ulvs has none, and exits with
//     -1; --stop-daemon and -L --daemon find none running;
//   - cannot reach the kernel: the advice is another, and -h and -v work without
//     a daemon;
//   - crashes (-b with nothing but commas), or counts in 32 bits (the packets of
//     real servers in --stats);
//   - prints a persistence engine's data raw, which is the client's: control
//     characters become "?".
package ipvsadm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/sched"
)

// Command carries out ipvsadm command lines. Control must be set; the zero
// value of Stdin is no input, of Stdout and Stderr nowhere, of Lookup
// NewSystemNames. A Command is for one goroutine at a time. Where Stdin says what there is
// (Ready() bool), the lines of -R that are there are one batch.
type Command struct {
	Control        ulvs.Control
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Lookup         Names
	// Warnings is told what a command that went well does not do, which the
	// original has no words for; nil is nowhere.
	Warnings io.Writer
}

// Exit codes. A main function passes -1 on as 255, as exit(3) does.
const (
	exitOK    = 0
	exitList  = 1  // what was to be listed is not there
	exitUsage = 2  // the line makes no sense
	exitError = -1 // it was refused
)

// exit ends a command line, and a restore too unless lineOnly is set.
type exit struct {
	code     int
	out      string // for standard output
	text     string // for standard error
	lineOnly bool
}

// fail is the original's fail(2, …).
func fail(format string, args ...any) *exit {
	return &exit{code: exitUsage, text: fmt.Sprintf(format, args...) + "\n"}
}

// runner is one Run of a Command.
type runner struct {
	control ulvs.Control
	names   Names
	in      *bufio.Reader
	out     *bufio.Writer
	err     io.Writer
	warn    io.Writer

	// Of a restore: the lines that are to be carried out, what the last one that was came
	// to, and what ends the whole.
	waiting []*line
	last    *exit
	over    *exit
}

// Run carries out a command line; args[0] is the program's name, as it shall
// appear in the usage. It returns the exit code: 0, 1, 2 or -1.
func (c *Command) Run(args []string) int {
	r := c.runner()
	// A listing that nobody reads is no failure of the command: the original
	// does not look either.
	defer r.out.Flush()

	if len(args) <= 1 {
		return r.end(r.listAll(0))
	}
	return r.end(r.run(args, false))
}

func (c *Command) runner() *runner {
	r := &runner{control: c.Control, names: c.Lookup, err: c.Stderr, warn: c.Warnings}
	if r.names == nil {
		r.names = NewSystemNames()
	}
	stdin, stdout := c.Stdin, c.Stdout
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	if stdout == nil {
		stdout = io.Discard
	}
	if r.err == nil {
		r.err = io.Discard
	}
	r.in, r.out = bufio.NewReaderSize(&patient{stdin, r.beforeWait}, inputSize), bufio.NewWriter(stdout)
	return r
}

// end prints what an exit has to say and returns its code.
func (r *runner) end(e *exit) int {
	if e == nil {
		return exitOK
	}
	r.out.WriteString(e.out)
	io.WriteString(r.err, e.text)
	return e.code
}

// run carries out one command line.
func (r *runner) run(args []string, restoring bool) *exit {
	l, e := r.read(args)
	if e != nil {
		return e
	}
	return r.carryOut(l, args, restoring)
}

// read reads a command line, and looks for what makes no sense in it.
func (r *runner) read(args []string) (*line, *exit) {
	l, e := r.parse(args)
	if e != nil {
		return nil, e
	}
	if e := verbCombinations[l.verb].check("command", l.given, 0, topics-1); e != nil {
		return nil, e
	}
	switch l.verb {
	case verbAdd, verbEdit:
		e = l.checkService()
	case verbAddServer, verbEditServer:
		e = l.checkServer()
	case verbList:
		e = l.checkList()
	}
	if e != nil {
		return nil, e
	}
	l.finish()
	return l, nil
}

// carryOut carries out a command line that makes sense.
func (r *runner) carryOut(l *line, args []string, restoring bool) *exit {
	switch l.verb {
	case verbList:
		return r.list(l)
	case verbSave:
		return r.listAll(l.format | formatRule)
	case verbRestore:
		if restoring {
			return tryHelp(args)
		}
		return r.restore(args[0])
	case verbStartDaemon:
		return &exit{code: exitError, text: "ulvs has no sync daemon\n", lineOnly: true}
	case verbStopDaemon:
		return &exit{code: exitError, text: "No daemon is running\n", lineOnly: true}
	}
	c := l.change()
	return r.changed(l, c.Apply(r.control))
}

// checkService looks at a service to be added or changed as a whole.
func (l *line) checkService() *exit {
	s := &l.service
	if s.Mark == 0 {
		if s.Port == 0 && s.Persistence.Timeout == 0 {
			return fail("Zero port specified for non-persistent service")
		}
		if s.OnePacket && s.Protocol != ulvs.UDP {
			return fail("One-Packet Scheduling is only for UDP virtual services")
		}
	}
	if s.Scheduler == "" {
		s.Scheduler = sched.Default
	}
	return nil
}

// changes are the verbs that change something.
var changes = map[verb]ulvs.Verb{
	verbAdd: ulvs.VerbAddService, verbEdit: ulvs.VerbEditService, verbDelete: ulvs.VerbDeleteService,
	verbClear: ulvs.VerbClear, verbZero: ulvs.VerbZero,
	verbAddServer: ulvs.VerbAddDestination, verbEditServer: ulvs.VerbEditDestination,
	verbDeleteServer: ulvs.VerbDeleteDestination, verbSet: ulvs.VerbSetTimeouts,
}

// change is what a line with such a verb changes.
func (l *line) change() ulvs.Change {
	c := ulvs.Change{Verb: changes[l.verb]}
	key := l.service.ServiceKey
	switch l.verb {
	case verbAdd, verbEdit:
		c.Service = l.service
	case verbZero:
		// A service of zeros is none, as in libipvs.
		if key.Mark == 0 && key.Port == 0 && (!key.Addr.IsValid() || key.Addr.IsUnspecified()) {
			c.Verb = ulvs.VerbZeroAll
		} else {
			c.Key = key
		}
	case verbDelete:
		c.Key = key
	case verbAddServer, verbEditServer, verbDeleteServer:
		c.Key, c.Destination = key, l.server
	case verbSet:
		c.Timeouts = l.timeouts
	}
	return c
}

// changed says what became of a line's change.
func (r *runner) changed(l *line, err error) *exit {
	if err == nil {
		if l.verb == verbAddServer || l.verb == verbEditServer {
			r.warnMethod(&l.server)
		}
		return nil
	}
	return refused(l.verb, err, &exit{code: exitError, lineOnly: true})
}

// warnMethod says what becomes of a real server's packets.
func (r *runner) warnMethod(d *ulvs.Destination) {
	if r.warn != nil && d.Forward != ulvs.DirectRoute {
		fmt.Fprintf(r.warn, "ulvs: warning: packets for real server %v are dropped: ulvs forwards by direct routing (-g) only\n", d.AddrPort())
	}
}

// texts are libipvs's words for a verb's errors (ipvs_strerror).
var texts = map[verb]map[error]string{
	verbAdd: {
		ulvs.ErrServiceExists: "Service already exists",
		ulvs.ErrNoScheduler:   "Scheduler or persistence engine not found",
	},
	verbEdit: {
		ulvs.ErrNoService:   "No such service",
		ulvs.ErrNoScheduler: "Scheduler or persistence engine not found",
	},
	verbDelete: {ulvs.ErrNoService: "No such service"},
	verbZero:   {ulvs.ErrNoService: "No such service"},
	verbList:   {ulvs.ErrNoService: "No such service"},
	verbAddServer: {
		ulvs.ErrNoService:         "Service not defined",
		ulvs.ErrDestinationExists: "Destination already exists",
	},
	verbEditServer: {
		ulvs.ErrNoService:     "Service not defined",
		ulvs.ErrNoDestination: "No such destination",
	},
	verbDeleteServer: {
		ulvs.ErrNoService:     "Service not defined",
		ulvs.ErrNoDestination: "No such destination",
	},
}

// refused completes an exit for an error of Control. Without a way to the
// director every further line is in vain: the exit is then the original's for a
// kernel without IPVS.
func refused(v verb, err error, e *exit) *exit {
	switch {
	case errors.Is(err, ulvs.ErrPermission):
		return fail("Can't initialize ipvs: Permission denied (you must be root)\n" +
			"Are you sure that IP Virtual Server is built in the kernel or as module?")
	case errors.Is(err, ulvs.ErrUnreachable), errors.Is(err, ulvs.ErrNoAnswer):
		return fail("Can't initialize ipvs: %v", err)
	}
	text := err.Error()
	for sentinel, t := range texts[v] {
		if errors.Is(err, sentinel) {
			text = t
		}
	}
	switch {
	case errors.Is(err, ulvs.ErrInvalid):
		text = "Invalid operation.  Possibly wrong module version, address not unicast, ..."
	case errors.Is(err, ulvs.ErrRange):
		text = "Numerical result out of range"
	}
	e.text = text + "\n"
	return e
}
