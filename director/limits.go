package director

import (
	"log/slog"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// errorLimits follows how often the host sends ICMP errors. After init it is Tick's alone.
type errorLimits struct {
	host dataplane.Limiting
	log  *slog.Logger
	last dataplane.ErrorLimits
	due  time.Duration // when they are read again
	lost bool          // they could not be read
}

// limitsPeriod is how long a change of the host's sysctls may go unnoticed.
const limitsPeriod = 5 * time.Second

func (e *errorLimits) init(p dataplane.Plane, log *slog.Logger, now time.Duration) {
	e.log, e.last = log, dataplane.DefaultErrorLimits()
	var knows bool
	if e.host, knows = p.(dataplane.Limiting); !knows {
		e.host = defaultLimits{}
	}
	e.read(now)
}

// changed reads the limits, if it is time, and reports whether they are others.
func (e *errorLimits) changed(now time.Duration) bool {
	if now < e.due {
		return false
	}
	was := e.last
	e.read(now)
	return e.last != was
}

// read keeps the limits as they are if they cannot be read.
func (e *errorLimits) read(now time.Duration) {
	e.due = now + limitsPeriod
	l, err := e.host.ErrorLimits()
	if err == nil {
		e.last = l
	} else if !e.lost {
		e.log.Warn("the host's limits for ICMP errors cannot be read; those known last, or the kernel's defaults, hold on",
			"err", err)
	}
	e.lost = err != nil
}

// defaultLimits are those of a plane that knows none.
type defaultLimits struct{}

func (defaultLimits) ErrorLimits() (dataplane.ErrorLimits, error) {
	return dataplane.DefaultErrorLimits(), nil
}
