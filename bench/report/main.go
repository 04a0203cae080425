// Command report keeps the results of benchmarks, and writes BENCHMARKS.md from them.
//
//	report record NAME TIMES -- COMMAND ...    runs a benchmark so often, and keeps what it prints
//	report write                               writes BENCHMARKS.md and its plots, with medians
//
// Both are run from the top of the repository, by make.
package main

import (
	"fmt"
	"os"
)

const (
	resultsDir = "bench/results"
	plotsDir   = "bench/plots"
	page       = "BENCHMARKS.md"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) > 4 && args[0] == "record" && args[3] == "--":
		err = record(args[1], args[2], args[4:])
	case len(args) == 1 && args[0] == "write":
		err = write(".")
	default:
		err = fmt.Errorf("usage: report record NAME TIMES -- COMMAND ... | report write")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// write writes the page and its plots below root.
func write(root string) error {
	files, err := render(os.DirFS(root))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root+"/"+plotsDir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(root+"/"+name, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
