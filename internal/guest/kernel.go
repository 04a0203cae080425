package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// releases are the Debian releases that have a series of kernels.
var releases = map[string]string{
	"6.1":  "bookworm",
	"6.12": "trixie",
}

// Image is a kernel and its modules, unpacked on the host. It is only read.
type Image struct {
	Package string // Debian's, like linux-image-6.1.0-50-cloud-amd64
	Version string // Debian's, like 6.1.176-1
	Release string // what uname -r says, like 6.1.0-50-cloud-amd64
	Vmlinuz string // path of what boots
	Modules string // folder of this release's modules
}

func (i *Image) String() string { return i.Package + " " + i.Version }

// Kernel returns the newest kernel of a series, "6.1" or "6.12", that Debian's
// mirror has. It is fetched once, into ulvs/kernels/VERSION in the user's cache
// folder (os.UserCacheDir), and from then on taken from there without a look at the
// mirror: remove the folder to have a newer one. apt verifies signatures and
// checksums of all that it fetches.
//
// It may be called from any goroutine and by several processes: the last to fetch a
// version finds that it is there. ctx ends a download.
func Kernel(ctx context.Context, series string) (*Image, error) {
	release, ok := releases[series]
	if !ok {
		return nil, fmt.Errorf("no kernel series %q: there are 6.1 and 6.12", series)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("where to keep kernels: %w; set HOME or XDG_CACHE_HOME", err)
	}
	cache = filepath.Join(cache, "ulvs", "kernels")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("where to keep kernels: %w", err)
	}
	version, err := cached(cache, series)
	if err != nil {
		return nil, err
	}
	if version == "" {
		if version, err = fetch(ctx, cache, release, series); err != nil {
			return nil, fmt.Errorf("fetch a kernel %s from Debian %s: %w", series, release, err)
		}
	}
	return open(filepath.Join(cache, version))
}

// cached returns the version of a series that was fetched last, of cache's folders, or "".
func cached(cache, series string) (version string, err error) {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return "", err
	}
	var last time.Time
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), series+".") {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		if version == "" || info.ModTime().After(last) {
			version, last = e.Name(), info.ModTime()
		}
	}
	return version, nil
}

// open finds the kernel in the folder of an unpacked package.
func open(dir string) (*Image, error) {
	const prefix = "vmlinuz-"
	found, err := filepath.Glob(filepath.Join(dir, "boot", prefix+"*"))
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s holds %d kernels, not one: remove it to have it fetched again", dir, len(found))
	}
	release := strings.TrimPrefix(filepath.Base(found[0]), prefix)
	image := &Image{
		Package: "linux-image-" + release, Version: filepath.Base(dir), Release: release, Vmlinuz: found[0],
	}
	// Since Debian 13, /lib is not a package's to put files into.
	for _, lib := range []string{"usr/lib", "lib"} {
		image.Modules = filepath.Join(dir, lib, "modules", release)
		if _, err := os.Stat(image.Modules); err == nil {
			return image, nil
		}
	}
	return nil, fmt.Errorf("%s holds no modules of %s: remove it to have it fetched again", dir, release)
}
