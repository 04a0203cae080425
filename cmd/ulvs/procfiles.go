package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/ulvs/ulvs/internal/procfs"
)

const (
	// procEach is how often the files of --procfs are written: as often as the kernel's
	// estimator brings up to date what they say.
	procEach = 2 * time.Second
	// procShare is which part of the time may be spent on a file: one that takes long, as the
	// list of a million connections, is written less often.
	procShare = 50
)

// procFiles are IPVS's files under /proc, in a folder, for programs that are told where /proc is.
type procFiles struct {
	dir  string
	from procfs.Source
	log  *slog.Logger
	old  bool // something is wrong, and has been said
}

// checkProcfs says what is wrong with --procfs.
func checkProcfs(dir string) error {
	if dir == "" {
		return nil
	}
	for _, path := range []string{dir, filepath.Join(dir, "net")} {
		// To try is the only way to know: root may do anything, but not in /proc.
		f, err := os.CreateTemp(path, ".ulvs-*")
		if path != dir && errors.Is(err, os.ErrNotExist) {
			break
		}
		if err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
		if e := (*os.PathError)(nil); errors.As(err, &e) {
			err = e.Err // without the name that was tried
		}
		if err != nil {
			return fmt.Errorf("--procfs %s: %w: give a folder that is there and can be written into (not /proc itself)", dir, err)
		}
	}
	return nil
}

// keep writes the files until ctx ends.
func (p *procFiles) keep(ctx context.Context) {
	due := map[string]time.Time{}
	for {
		var failed []error
		for _, name := range procfs.Names() {
			began := time.Now()
			if began.Before(due[name]) {
				continue
			}
			failed = append(failed, p.write(ctx, name))
			if ctx.Err() != nil {
				return
			}
			due[name] = began.Add(procShare * time.Since(began))
		}
		p.say(errors.Join(failed...))
		select {
		case <-ctx.Done():
			return
		case <-time.After(procEach):
		}
	}
}

// say logs once what is wrong, and when all is well again.
func (p *procFiles) say(err error) {
	switch {
	case err != nil && !p.old:
		p.log.Warn("what programs read of IPVS's files under --procfs is old", "err", err)
	case err == nil && p.old:
		p.log.Info("IPVS's files under --procfs are written again")
	}
	p.old = err != nil
}

// write puts a new file into an old one's place: who reads finds the one or the other.
func (p *procFiles) write(ctx context.Context, name string) (err error) {
	path := filepath.Join(p.dir, name)
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	// Whoever may write into the folder may have put a link there, to what is not his.
	_ = os.Remove(unwritten(path))
	f, err := os.OpenFile(unwritten(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = procfs.Write(untilDone{ctx, f}, name, p.from)
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// untilDone is a file that takes no more when the daemon ends, whom another one may be waiting for.
type untilDone struct {
	context.Context
	*os.File
}

func (u untilDone) Write(b []byte) (int, error) {
	if err := u.Err(); err != nil {
		return 0, err
	}
	return u.File.Write(b)
}

// unwritten is where a file is until it is whole.
func unwritten(path string) string { return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)) }

// remove takes the files away, as they vanish from /proc with the module.
func (p *procFiles) remove() {
	for _, name := range procfs.Names() {
		path := filepath.Join(p.dir, name)
		_, _ = os.Remove(path), os.Remove(unwritten(path))
	}
	_ = os.Remove(filepath.Join(p.dir, "net")) // unless others have something there
}
