package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The guest is user-mode Linux on the host's own files. It gets a folder:
//
//	init                     the program conformance/uml, which the guest runs as process 1
//	lib/modules              -> the modules of user-mode Linux
//	scenarios/NAME           what to play, as it comes; removed when it was played
//	answers/NAME             what the kernel did, or
//	errors/NAME              why it could not be asked
//	kernel                   the kernel's release, written first
//	stop                     to have the guest end
//	program                  words of one that is run in place of scenarios, a line each
//
// Files appear under their names complete.
const (
	ScenarioDir = "scenarios"
	AnswerDir   = "answers"
	ErrorDir    = "errors"
	KernelFile  = "kernel"
	StopFile    = "stop"
	ProgramFile = "program"

	modulesFrom = "/usr/lib/uml/modules"
)

// QuickSuffix ends the names of scenarios that are to be played with
// Kernel{Quick: true}.
const QuickSuffix = ".quick"

// ErrNoGuest says that user-mode Linux is not installed.
var ErrNoGuest = errors.New("no user-mode Linux: apt-get install user-mode-linux ipvsadm iptables")

// ErrGuestEnded says that a guest that was asked has ended.
var ErrGuestEnded = errors.New("the guest ended")

// Guest is a kernel to ask.
type Guest struct {
	// Module is the root of this Go module, to build the guest's program from.
	Module string
	// Log, if not nil, gets the guest's console after it ended.
	Log func(string)
}

// Running is a guest that has booted. Its methods may be called from any
// goroutine.
type Running struct {
	Kernel string // release

	guest   Guest
	dir     string
	cancel  func()
	ended   chan struct{} // closed after console and err were set
	console string
	err     error
}

// Boot boots a guest. ctx ends it.
func (g Guest) Boot(ctx context.Context) (*Running, error) {
	uml, err := g.installed()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ulvs-guest")
	if err != nil {
		return nil, err
	}
	if err := g.fill(ctx, dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Running{guest: g, dir: dir, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.console, r.err = boot(ctx, uml, dir)
	}()
	release, err := r.file(ctx, KernelFile)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.Kernel = strings.TrimSpace(release)
	return r, nil
}

// Run boots a guest that runs one program, of the host's files, and returns what it and the
// console said when it has ended. The error may be ErrNoGuest.
func (g Guest) Run(ctx context.Context, words ...string) (console string, err error) {
	uml, err := g.installed()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "ulvs-guest")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := g.fill(ctx, dir); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, ProgramFile), []byte(strings.Join(words, "\n")), 0o644); err != nil {
		return "", err
	}
	return boot(ctx, uml, dir)
}

// installed finds user-mode Linux and what its guest needs of this host.
func (g Guest) installed() (uml string, err error) {
	if uml, err = exec.LookPath("linux.uml"); err != nil {
		return "", ErrNoGuest
	}
	if _, err := os.Stat(modulesFrom); err != nil {
		return "", fmt.Errorf("%w (%w)", ErrNoGuest, err)
	}
	for _, program := range []string{"ipvsadm", "iptables-legacy", "ip6tables-legacy", "sysctl", "stdbuf"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w (%w)", ErrNoGuest, err)
		}
	}
	return uml, nil
}

// Ask plays one scenario. Names must differ. The error wraps ErrGuestEnded when there
// is no use in asking this guest again.
func (r *Running) Ask(ctx context.Context, name, text string) ([]string, error) {
	to := filepath.Join(r.dir, ScenarioDir, name)
	if err := os.WriteFile(filepath.Join(r.dir, name+".part"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	if err := os.Rename(filepath.Join(r.dir, name+".part"), to); err != nil {
		return nil, err
	}
	answer, err := r.file(ctx, filepath.Join(AnswerDir, name), filepath.Join(ErrorDir, name))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(answer, "\n"), "\n"), nil
}

// AskAll plays scenarios (text by name), some at a time, and returns the answers
// by name. The error lists what failed; the other answers are good all the same.
func (r *Running) AskAll(ctx context.Context, scenarios map[string]string) (map[string][]string, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := make(map[string][]string)
	var errs []error
	for name, text := range scenarios {
		wg.Go(func() {
			got, err := r.Ask(ctx, name, text)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				return
			}
			answers[name] = got
		})
	}
	wg.Wait()
	return answers, errors.Join(errs...)
}

// file waits for a file of the guest's and returns its content; that of the
// second is an error.
func (r *Running) file(ctx context.Context, good string, bad ...string) (string, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if text, err := os.ReadFile(filepath.Join(r.dir, good)); err == nil {
			return string(text), nil
		}
		for _, b := range bad {
			if text, err := os.ReadFile(filepath.Join(r.dir, b)); err == nil {
				return "", errors.New(string(text))
			}
		}
		select {
		case <-r.ended:
			return "", r.failure()
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}

// Close ends the guest.
func (r *Running) Close() error {
	defer os.RemoveAll(r.dir)
	defer r.cancel()
	if err := os.WriteFile(filepath.Join(r.dir, StopFile), nil, 0o644); err != nil {
		return err
	}
	select {
	case <-r.ended:
	case <-time.After(closing):
		r.cancel()
		<-r.ended
	}
	if r.guest.Log != nil {
		r.guest.Log(r.console)
	}
	if r.err != nil {
		return r.failure()
	}
	return nil
}

// closing is how long a guest may take to end: it takes down some hundred network
// namespaces before, which on a busy machine is five seconds' work.
const closing = 2 * time.Minute

// failure says why the guest has ended, and what its console said last.
func (r *Running) failure() error {
	lines := strings.Split(strings.TrimSpace(r.console), "\n")
	last := lines[max(0, len(lines)-10):]
	return fmt.Errorf("a guest's console said last:\n%s\n%w: %w", strings.Join(last, "\n"), ErrGuestEnded, r.err)
}

// fill prepares the guest's folder.
func (g Guest) fill(ctx context.Context, dir string) error {
	for _, sub := range []string{ScenarioDir, AnswerDir, ErrorDir, "lib"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(modulesFrom, filepath.Join(dir, "lib", "modules")); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "init"), "./conformance/uml")
	build.Dir = g.Module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's program: %w\n%s", err, out)
	}
	return nil
}

// boot runs the guest to its end and returns what its console said.
func boot(ctx context.Context, uml, dir string) (console string, err error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, uml,
		"rootfstype=hostfs", "root=/dev/root", "rootflags=/", "rw", "mem=1024M",
		"init="+filepath.Join(dir, "init"), "con=null", "con0=null,fd:1", "quiet", "uml_dir="+dir,
		// What the guest does not know goes to its first process: the state that withoutXState takes away is not to be
		// used.
		"GODEBUG=cpu.all=off", "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-XSAVE,-XSAVEC")
	cmd.Stdout, cmd.Stderr = &out, &out
	// The guest's processes are processes of the host. In a process namespace
	// whose first one is the guest's kernel, they all end when it does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	// The signal is sent when the thread ends that forked the child, which any thread
	// may do that a lab had locked for a namespace. This one ends then.
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := withoutXState()
		if err == nil {
			err = cmd.Run()
		}
		ended <- err
	}()
	err = <-ended
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return strings.ReplaceAll(out.String(), "\r", ""), err
}
