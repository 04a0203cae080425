package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	lru "github.com/hashicorp/golang-lru/v2"
)

// A rule that cannot be followed is logged once, however often the rules change.
func TestUnfollowedSaidOnce(t *testing.T) {
	var out bytes.Buffer
	said, err := lru.New[string, struct{}](saidRules)
	if err != nil {
		t.Fatal(err)
	}
	d := daemon{log: slog.New(slog.NewTextHandler(&out, nil)), said: said}
	d.warnUnfollowed([]string{"first"})
	d.warnUnfollowed([]string{"first", "second"})
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines for two rules:\n%s", n, &out)
	}
}
