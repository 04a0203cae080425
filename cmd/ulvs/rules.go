package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/ipvsadm"
)

// file is what a file said when it was read: once, since it may be a pipe.
type file struct {
	text string
	err  error
}

// errEnded says that the daemon was told to end before it was ready.
var errEnded = errors.New("ended before it was ready")

// read reads the files that were given. One that is a pipe may never be written to.
func (d *daemon) read(ctx context.Context) error {
	d.files = make(map[string]file)
	for _, f := range [][2]string{{"--rules", d.rules}, {"--marks", d.marks}, {"--marks6", d.marks6}} {
		option, name := f[0], f[1]
		if name == "" {
			continue
		}
		contents := make(chan file, 1)
		go func() {
			text, err := os.ReadFile(name)
			contents <- file{string(text), err}
		}()
		late := time.NewTimer(time.Second)
		for waiting := true; waiting; {
			select {
			case d.files[name] = <-contents:
				waiting = false
			case <-late.C:
				d.log.Info("waiting for the end of a file", "option", option, "file", name)
			case <-ctx.Done():
				return errEnded
			}
		}
		late.Stop()
	}
	return nil
}

// setUp gives the director what the files say, unless it goes on with what an
// earlier daemon left.
func (d *daemon) setUp(ctx context.Context, lvs *director.Director, operated ulvs.Control) error {
	if lvs.Adopted() {
		return d.compare(operated)
	}
	return lvs.Load(func() error { return d.load(ctx, operated) })
}

// load starts the director with the files that were given.
func (d *daemon) load(ctx context.Context, lvs ulvs.Control) error {
	for _, m := range []struct {
		file string
		ipv6 bool
	}{{d.marks, false}, {d.marks6, true}} {
		if m.file == "" {
			continue
		}
		f := d.files[m.file]
		if f.err != nil {
			return fmt.Errorf("mark rules: %w", f.err)
		}
		if err := lvs.MarkRestore(m.ipv6, f.text); err != nil {
			return fmt.Errorf("mark rules %s: %w", m.file, err)
		}
		for _, rule := range leftOut(m.ipv6, f.text) {
			d.log.Info("a mark rule is left out, as no packet of IPVS passes it", "file", m.file, "rule", rule)
		}
	}
	if d.rules == "" {
		return nil
	}
	f := d.files[d.rules]
	if f.err != nil {
		return fmt.Errorf("rules: %w", f.err)
	}
	return d.loadServices(ctx, lvs, f.text)
}

// loadServices carries out the lines of --rules, up to the first that is wrong, or until the
// daemon is told to end.
func (d *daemon) loadServices(ctx context.Context, lvs ulvs.Control, text string) error {
	var (
		lines   = bufio.NewScanner(strings.NewReader(text))
		reader  = ipvsadm.NewReader(nil)
		batch   []ulvs.Change
		refused []func(error) error // what is said of each
		wrong   error               // the line behind them
	)
	for n := 1; lines.Scan() && wrong == nil; n++ {
		if ctx.Err() != nil {
			return errEnded
		}
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "#") {
			continue // Debian's init script writes one
		}
		about := func(what string) error {
			return fmt.Errorf("rules %s: line %d: %q: %s; lines are what ipvsadm -Sn prints, mend or remove this one", d.rules, n, line, what)
		}
		change, said, what := reader.Read(lines.Text())
		switch {
		case what != "":
			wrong = about(what)
		case change != nil:
			batch = append(batch, *change)
			refused = append(refused, func(err error) error { return about(said(err)) })
		}
	}
	if wrong == nil && lines.Err() != nil {
		wrong = fmt.Errorf("rules %s: %w", d.rules, lines.Err())
	}
	var first error
	err := lvs.Batch(batch, func(n int, err error) bool {
		switch {
		case ctx.Err() != nil:
			first = errEnded
		case err != nil:
			first = refused[n](err)
		}
		return first == nil
	})
	return cmp.Or(first, err, wrong)
}

// compare says in a line how what an earlier daemon left differs from the files
// that were given: it is what counts, as it has what was commanded since.
func (d *daemon) compare(lvs ulvs.Control) error {
	for _, f := range []struct {
		option, file string
		now          func() (string, error)
	}{
		{"--rules", d.rules, func() (string, error) {
			var out, said bytes.Buffer
			c := ipvsadm.Command{Control: lvs, Stdout: &out, Stderr: &said}
			if code := c.Run([]string{"ipvsadm", "-Sn"}); code != 0 {
				return "", fmt.Errorf("cannot list the services: %s", said.String())
			}
			return out.String(), nil
		}},
		{"--marks", d.marks, func() (string, error) { return lvs.MarkSave(false) }},
		{"--marks6", d.marks6, func() (string, error) { return lvs.MarkSave(true) }},
	} {
		if f.file == "" {
			continue
		}
		given := d.files[f.file]
		if given.err != nil {
			d.log.Warn("what an earlier daemon left counts, and cannot be compared with the file", "option", f.option, "err", given.err)
			continue
		}
		now, err := f.now()
		if err != nil {
			return err
		}
		file, kept := lineSet(given.text), lineSet(now)
		missing, more := without(file, kept), without(kept, file)
		if len(missing)+len(more) > 0 {
			d.log.Warn("what an earlier daemon left counts, and differs from the file; --fresh begins with the file", "file", f.file,
				"lines of the file alone", strings.Join(missing, "; "), "lines that are not in it", strings.Join(more, "; "))
		}
	}
	return nil
}

// lineSet returns the lines of a saved table, without comments and counters.
func lineSet(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && line[0] != '#' && line[0] != ':' {
			list = append(list, line)
		}
	}
	return list
}

func without(list, those []string) (rest []string) {
	has := map[string]bool{}
	for _, line := range those {
		has[line] = true
	}
	for _, line := range list {
		if !has[line] {
			rest = append(rest, line)
		}
	}
	return rest
}
