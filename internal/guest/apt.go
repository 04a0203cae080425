package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// keyring has the keys that Debian signs its releases with.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt is an apt of our own, beside the host's: it has other sources, and keeps what
// it learns in a folder of its own. It is apt that knows how to follow a signature
// from the keyring to a package, through proxies and mirrors; and which packages
// the mirror has today.
type apt struct{ dir string }

// fetch downloads a release's newest kernel of a series, unpacks it into cache, and
// returns its version, which is the name of the folder.
func fetch(ctx context.Context, cache, release, series string) (version string, err error) {
	if err := installed("apt-get", "apt-cache", "dpkg-deb"); err != nil {
		return "", err
	}
	if _, err := os.Stat(keyring); err != nil {
		return "", fmt.Errorf("%w: apt-get install debian-archive-keyring", err)
	}
	// In cache, so that what is unpacked can be renamed to where it belongs.
	dir, err := os.MkdirTemp(cache, ".fetch-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	a := apt{dir}
	if err := a.sources(ctx, release); err != nil {
		return "", err
	}
	if _, err := a.run(ctx, "apt-get", "update", "-q", "--error-on=any"); err != nil {
		return "", err
	}
	// The metapackage depends on the newest kernel, of the versions that apt would install.
	depends, err := a.run(ctx, "apt-cache", "depends", metapackage)
	if err != nil {
		return "", err
	}
	name := dependency(depends, series)
	if name == "" {
		return "", fmt.Errorf("%s depends on no linux-image-%s.*: is %s the release of that series?\n%s", metapackage, series, release, depends)
	}
	shown, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return "", err
	}
	if version = field(shown, "Version"); version == "" {
		return "", fmt.Errorf("apt-cache show %s says no version:\n%s", name, shown)
	}
	if _, err := a.run(ctx, "apt-get", "download", "-q", name+"="+version); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download left %d packages, not one (%w)", len(debs), err)
	}
	unpacked := filepath.Join(dir, "unpacked")
	if _, err := a.run(ctx, "dpkg-deb", "-x", debs[0], unpacked); err != nil {
		return "", err
	}
	now := time.Now()
	if err := os.Chtimes(unpacked, now, now); err != nil { // by which the cache knows the newest
		return "", err
	}
	to := filepath.Join(cache, version)
	if err := os.Rename(unpacked, to); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return version, nil
}

// sources writes where apt is to look.
func (a apt) sources(ctx context.Context, release string) error {
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, sub), 0o755); err != nil {
			return err
		}
	}
	main, security := mirrors(ctx)
	var list string
	for _, from := range []string{main + " " + release, security + " " + release + "-security"} {
		list += "deb [arch=amd64 signed-by=" + keyring + "] " + from + " main\n"
	}
	// Nothing is installed.
	if err := os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(list), 0o644)
}

// mirrors returns where the host's apt gets Debian and its security updates from:
// in a network of its own it may be the only place to reach. Debian's own addresses
// otherwise.
func mirrors(ctx context.Context) (main, security string) {
	// A host that is not Debian has no such lines, and one whose lists were removed
	// has no labels: neither is an error.
	list, _ := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(LABEL) $(SITE)", "Created-By: Packages").Output()
	return mirrorsOf(string(list))
}

func mirrorsOf(list string) (main, security string) {
	main, security = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
	for line := range strings.Lines(list) {
		label, site, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch label {
		case "Debian":
			main = site
		case "Debian-Security":
			security = site
		}
	}
	return main, security
}

// run runs a program of apt's in our folder and returns what it printed.
func (a apt) run(ctx context.Context, name string, args ...string) (string, error) {
	if name != "dpkg-deb" {
		args = append([]string{
			"-o", "Dir::State=" + a.dir,
			"-o", "Dir::State::status=" + filepath.Join(a.dir, "status"),
			"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
			"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
			"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
			"-o", "Dir::Etc::sourceparts=-",
			"-o", "Dir::Etc::preferencesparts=-",
			"-o", "APT::Architecture=amd64", // of the guest, whatever the host's
			"-o", "APT::Architectures=amd64",
			"-o", "APT::Sandbox::User=", // _apt may not enter the folder
			"-o", "Acquire::Retries=3",
			"-o", "Acquire::Languages=none",
			"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s: %w\n%s", name, err, errs.String())
	}
	return out.String(), nil
}

// metapackage depends on a release's newest cloud kernel.
const metapackage = "linux-image-cloud-amd64"

// dependency is the kernel of a series on which the metapackage depends, as `apt-cache
// depends` prints it; none: "".
func dependency(depends, series string) string {
	for line := range strings.Lines(depends) {
		name, is := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if is && strings.HasPrefix(name, "linux-image-"+series+".") {
			return name
		}
	}
	return ""
}

// field is a field of the stanza that `apt-cache show` prints.
func field(shown, name string) string {
	for line := range strings.Lines(shown) {
		if value, is := strings.CutPrefix(line, name+": "); is {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// packages are the Debian packages that the programs we run come in.
var packages = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86",
	"xz":                 "xz-utils",
	"apt-get":            "apt",
	"apt-cache":          "apt",
	"dpkg-deb":           "dpkg",
	"go":                 "golang",
}

// installed returns an error that says which package to install, if one of programs
// is not there.
func installed(programs ...string) error {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: apt-get install --no-install-recommends %s", err, packages[p])
		}
	}
	return nil
}
