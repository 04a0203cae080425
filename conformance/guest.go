package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The guest is user-mode Linux on the host's own files. It gets a folder:
//
//	init                     the program conformance/uml, which the guest runs as process 1
//	lib/modules              -> the modules of user-mode Linux
//	scenarios/NAME           what to play
//	answers/NAME             what the kernel did, or
//	errors/NAME              why it could not be asked
//	kernel                   the kernel's release, written last
const (
	ScenarioDir = "scenarios"
	AnswerDir   = "answers"
	ErrorDir    = "errors"
	KernelFile  = "kernel"

	modulesFrom = "/usr/lib/uml/modules"
)

// ErrNoGuest says that user-mode Linux is not installed.
var ErrNoGuest = errors.New("no user-mode Linux: apt-get install user-mode-linux ipvsadm iptables")

// Guest is a kernel to ask.
type Guest struct {
	// Module is the root of this Go module, to build the guest's program from.
	Module string
	// Log, if not nil, gets the guest's console after it ended.
	Log func(string)
}

// Play boots the guest once, plays all scenarios (text by name), and returns
// the kernel's release and the answers by name. The error lists what failed;
// the other scenarios' answers are good all the same.
func (g Guest) Play(ctx context.Context, scenarios map[string]string) (kernel string, answers map[string][]string, err error) {
	uml, err := exec.LookPath("linux.uml")
	if err != nil {
		return "", nil, ErrNoGuest
	}
	if _, err := os.Stat(modulesFrom); err != nil {
		return "", nil, fmt.Errorf("%w (%w)", ErrNoGuest, err)
	}
	// The guest runs on this host's files, so these must be here too.
	for _, program := range []string{"ipvsadm", "iptables-legacy", "ip6tables-legacy", "sysctl"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", nil, fmt.Errorf("%w (%w)", ErrNoGuest, err)
		}
	}
	dir, err := os.MkdirTemp("", "ulvs-guest")
	if err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(dir)
	if err := g.fill(ctx, dir, scenarios); err != nil {
		return "", nil, err
	}
	console, err := boot(ctx, uml, dir)
	if g.Log != nil {
		g.Log(console)
	}
	if err != nil {
		return "", nil, fmt.Errorf("user-mode Linux: %w; its console:\n%s", err, console)
	}
	release, err := os.ReadFile(filepath.Join(dir, KernelFile))
	if err != nil {
		return "", nil, fmt.Errorf("the guest did not finish; its console:\n%s", console)
	}
	answers, err = collect(dir, scenarios)
	return strings.TrimSpace(string(release)), answers, err
}

// fill prepares the guest's folder.
func (g Guest) fill(ctx context.Context, dir string, scenarios map[string]string) error {
	for _, sub := range []string{ScenarioDir, AnswerDir, ErrorDir, "lib"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(modulesFrom, filepath.Join(dir, "lib", "modules")); err != nil {
		return err
	}
	for name, text := range scenarios {
		if err := os.WriteFile(filepath.Join(dir, ScenarioDir, name), []byte(text), 0o644); err != nil {
			return err
		}
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
		"init="+filepath.Join(dir, "init"), "con=null", "con0=null,fd:1", "quiet", "uml_dir="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	// The guest's processes are processes of the host. In a process namespace
	// whose first one is the guest's kernel, they all end when it does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return strings.ReplaceAll(out.String(), "\r", ""), err
}

func collect(dir string, scenarios map[string]string) (map[string][]string, error) {
	answers := make(map[string][]string)
	var errs []error
	for name := range scenarios {
		text, err := os.ReadFile(filepath.Join(dir, AnswerDir, name))
		if err == nil {
			answers[name] = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
			continue
		}
		if why, readErr := os.ReadFile(filepath.Join(dir, ErrorDir, name)); readErr == nil {
			err = errors.New(string(why))
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return answers, errors.Join(errs...)
}
