package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options say what to run, and on what. Kernel and Binary must be set; the zero
// value of the others is good.
type Options struct {
	Kernel *Image
	// Binary is the path of a static program for amd64 on the host, such as
	// `CGO_ENABLED=0 go test -c` makes. It runs as root, in WorkDir; its standard
	// input is /dev/null.
	Binary string
	Args   []string // without the program's name
	Env    []string // "NAME=value", beside PATH, HOME and TMPDIR
	// Files are what the program finds: by path in the guest, which may be relative
	// to WorkDir, the path of a file on the host, or of a folder, which is copied with
	// all that it holds.
	Files map[string]string
	// Modules are kernel modules to load before, and with them what they depend on.
	// Nothing loads others later, since the guest has no modprobe: nf_tables without
	// nft_chain_nat and the like is of little use.
	Modules []string
	// Parameters are what modules are loaded with, by their names: "conn_tab_bits=20"
	// for ip_vs. A module that is built into the kernel takes none here, but on its
	// command line (Append).
	Parameters map[string]string
	// Icount makes the guest's clock count instructions, one each nanosecond, and
	// leave out the time in which it waits. The clock of one run is then like that of
	// the next. Where instructions are compared, two things would spoil it and are
	// off: the kernel zeroing pages as it hands them out, and string instructions
	// that copy a block, each byte of which counts. Icount goes with one processor
	// only.
	Icount bool
	Memory int // MiB; 0: 512
	CPUs   int // 0: 1
	// Append is added to the kernel's command line.
	Append []string
	// Stdout gets what the program writes to its standard output and error, as it
	// comes; nil: nobody.
	Stdout io.Writer
}

// Run boots a guest, runs a program in it, and returns the program's exit status;
// 128 and the signal's number, if a signal ended it. An error says that it could not
// be run to its end: a program was missing on the host, the kernel died, or ctx
// ended; it then has the end of the kernel's log.
//
// A boot takes some seconds, and a program that hangs hangs forever: give ctx a
// deadline. Calls do not disturb each other.
func Run(ctx context.Context, o Options) (code int, err error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "ulvs-guest-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := o.fill(ctx, dir); err != nil {
		return 0, err
	}
	ended := o.boot(ctx, dir)
	console, err := os.ReadFile(filepath.Join(dir, consoleFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if ended != nil {
		return 0, fmt.Errorf("guest with %v: %w; the end of its log:\n%s", o.Kernel, ended, tail(string(console)))
	}
	if code, err = status(string(console)); err != nil {
		return 0, fmt.Errorf("guest with %v: %w; the end of its log:\n%s", o.Kernel, err, tail(string(console)))
	}
	return code, nil
}

// Files in the folder of a run.
const (
	consoleFile = "console"
	rootFile    = "root.cpio"
	buildFile   = "init"
)

func (o *Options) check() error {
	switch {
	case o.Kernel == nil:
		return errors.New("guest: no kernel given: see guest.Kernel")
	case o.Binary == "":
		return errors.New("guest: no program given")
	case o.Icount && o.CPUs > 1:
		return fmt.Errorf("guest: instructions cannot be counted on %d processors: set CPUs to 1", o.CPUs)
	}
	return installed("qemu-system-x86_64", "go")
}

// fill writes the guest's files.
func (o *Options) fill(ctx context.Context, dir string) (err error) {
	process1 := filepath.Join(dir, buildFile)
	build := exec.CommandContext(ctx, "go", "build", "-o", process1, "github.com/ulvs/ulvs/internal/guest/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's process 1 (in a folder of the module ulvs): %w\n%s", err, out)
	}
	modules, err := o.Kernel.modules(ctx, o.Modules)
	if err != nil {
		return err
	}
	parameters, err := parametersOf(modules, o.Parameters)
	if err != nil {
		return fmt.Errorf("%v: %w", o.Kernel, err)
	}
	plan := Plan{
		Binary: binaryFile, Args: o.Args, Dir: WorkDir,
		Env: append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"}, o.Env...),
	}
	f, err := os.Create(filepath.Join(dir, rootFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	a := archive{w: w}
	for _, sub := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/root", WorkDir} {
		a.folder(sub)
	}
	a.copy(initFile, process1)
	a.copy(binaryFile, o.Binary)
	for _, m := range modules {
		to := path.Join(moduleDir, m.name+".ko")
		a.add(to, 0o644, int64(len(m.image)), bytes.NewReader(m.image))
		plan.Modules = append(plan.Modules, Module{Path: to, Parameters: parameters[m.name]})
	}
	for _, to := range slices.Sorted(maps.Keys(o.Files)) {
		from := o.Files[to]
		if !path.IsAbs(to) {
			to = path.Join(WorkDir, to)
		}
		a.copy(path.Clean(to), from)
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	a.add(PlanFile, 0o644, int64(len(text)), bytes.NewReader(text))
	return errors.Join(a.close(), w.Flush())
}

// boot runs qemu to its end.
func (o *Options) boot(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", o.arguments(dir)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if o.Stdout != nil {
		// Not the caller's file itself, which qemu would make a non-blocking one.
		cmd.Stdout = struct{ io.Writer }{o.Stdout}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	// The signal is sent when the thread ends that forked the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("ended before the program did: %w", ctx.Err())
		}
		return fmt.Errorf("qemu-system-x86_64: %w\n%s", err, errs.String())
	}
	return nil
}

// arguments returns qemu's.
func (o *Options) arguments(dir string) []string {
	// A kernel that dies restarts at once (panic), and a restart ends qemu.
	line := []string{"console=ttyS1", "quiet", "panic=-1"}
	cpu := "max"
	var more []string
	if o.Icount {
		cpu = "max,erms=off,fsrm=off"
		line = append(line, "init_on_alloc=0")
		more = []string{"-icount", "shift=0,sleep=off"}
	}
	args := []string{
		"-accel", "tcg", "-cpu", cpu,
		"-smp", strconv.Itoa(max(o.CPUs, 1)), "-m", strconv.Itoa(o.memory()),
		"-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-serial", "file:" + filepath.Join(dir, consoleFile),
		"-kernel", o.Kernel.Vmlinuz, "-initrd", filepath.Join(dir, rootFile),
		"-append", strings.Join(append(line, o.Append...), " "),
	}
	return append(args, more...)
}

func (o *Options) memory() int {
	if o.Memory == 0 {
		return 512
	}
	return o.Memory
}

// status finds what process 1 said at last.
func status(console string) (code int, err error) {
	err = errors.New("it ended without a word from its process 1")
	for line := range strings.Lines(console) {
		line = strings.TrimSpace(line)
		if n, ok := strings.CutPrefix(line, ExitLine); ok {
			code, err = strconv.Atoi(n)
		}
		if why, ok := strings.CutPrefix(line, ErrorLine); ok {
			err = errors.New(why)
		}
	}
	return code, err
}

// tail returns the last lines of a log.
func tail(log string) string {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(log, "\r", "")), "\n")
	return strings.Join(lines[max(0, len(lines)-80):], "\n")
}
