# ulvs: the Linux Virtual Server in userspace. "make help" lists what there is.
GO       ?= go
FUZZTIME ?= 1m
SEEDS    ?= 1-500
# How often "make faults" has each mistake be found.
FAULTS   ?= 1
# How long a package's tests may take before they count as hung, on a machine far
# slower than those that the times below are of.
PATIENCE ?= 40m
# What "make flood" is told besides, as -flood-only 'xdp.*65536', -flood-for 20s,
# -flood-binary /tmp/ulvs-before or -flood-rate 100000.
FLOOD    ?=
# What "make soak" is told besides, as -soak-for 10m, -soak-seed 7, -soak-plane xdp or
# -soak-only 'replace|flood'.
SOAK     ?=
# What "make bench-latency" is told besides, as -rounds 9, -round-trips 200000, -connects 5000
# or -only native.
LATENCY  ?=
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## the static binary bin/ulvs
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ulvs ./cmd/ulvs

.PHONY: demo
demo: build ## the three walk-throughs, in network namespaces of their own
	./bin/ulvs demo

# Many tests wait for real timers, so that more than there are cores run at once.
CORES    := $(shell nproc)

.PHONY: test
test: ## all tests
	$(GO) test -p $$(($(CORES) + 1)) -parallel $$((2 * $(CORES))) -timeout $(PATIENCE) ./...

.PHONY: load
load: ## what judges time, or changes what all namespaces share: alone on a machine (root; 17 minutes)
	$(GO) test ./cmd/ulvs -count=1 -v -run '^(TestNeighborFlood|TestFirstPacketTime|TestLoad|TestUploads)$$' -load -timeout $(PATIENCE)
	$(GO) test ./bench/planes -count=1 -v -run '^(TestSYNRate|TestTwoProcessors|TestTCXCost)$$' -load -timeout $(PATIENCE)

.PHONY: flood
flood: ## floods of SYNs at every plane, 16 cases of two minutes: alone on a machine (root; 50 minutes)
	$(GO) test ./cmd/ulvs -count=1 -v -run TestFloods -flood -timeout 3h $(FLOOD)

.PHONY: pair
pair: ## keepalived: two directors fail over, on each plane and beside kernel IPVS in user-mode Linux; what it makes of its configuration, beside that too: alone on a machine (root; 5 minutes)
	$(GO) test ./cmd/ulvs -count=1 -v -run 'TestPair|TestKeepalived' -pair -keepalived -timeout 30m

.PHONY: soak
soak: ## an hour of kills, commands, floods and changes of the interface by chance, on each plane: alone on a machine (root; 2 hours)
	$(GO) test ./cmd/ulvs -count=1 -v -run TestSoak -soak -timeout 5h $(SOAK)

# What is on trial in some tests is a program that they build without the detector: most of that is left out (-short).
.PHONY: race
race: ## all tests under the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race -short -parallel $$((2 * $(CORES))) -timeout $(PATIENCE) ./...

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, go.mod as it should be, builds for arm64 and of the emitter elsewhere, and vuln
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-clean: $$unformatted"; exit 1; }
	$(GO) mod tidy -diff
	$(GO) mod verify
	$(GO) vet ./...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/ulvs
	GOOS=darwin CGO_ENABLED=0 $(GO) build ./dataplane/xdp/program
	$(GO) run $(STATICCHECK) ./...
	@$(MAKE) --no-print-directory vuln

.PHONY: vuln
vuln: ## known vulnerabilities in what is called, where Go's database of them can be reached
	@log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	if $(GO) run $(GOVULNCHECK) ./... >$$log 2>&1; then tail -n 1 $$log; \
	elif grep -q '^govulncheck: fetching vulnerabilities: ' $$log; then echo "govulncheck was left out: its database cannot be reached"; \
	else cat $$log; exit 1; fi

# Go's fuzzing engine sometimes fails at the end of its time with nothing but
# "context deadline exceeded" (golang.org/issue/75804); a finding always says
# "Failing input written".
.PHONY: fuzz
fuzz: ## every fuzzer for FUZZTIME (1m)
	@set -e; log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for name in $$(grep -ho '^func Fuzz[A-Za-z0-9]*' $$dir/*_test.go | sed 's/func //'); do \
	    echo "== $$dir $$name"; \
	    if ! $(GO) test $$dir -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) >$$log 2>&1; then \
	      cat $$log; \
	      if grep -q 'Failing input written' $$log || ! grep -q '^    context deadline exceeded$$' $$log; then exit 1; fi; \
	      echo "no finding: the engine ended late"; \
	    else tail -n 2 $$log; fi; \
	  done; done

# Benchmarks print their results, and keep them in bench/results.
RECORD  = $(GO) run ./bench/report record
STAGES  = ./packet ./fwmark ./conn ./sched ./internal/shtab ./internal/timerwheel ./bench

.PHONY: bench
bench: ## what every stage, the whole decision and the XDP program cost, without a network (20 minutes)
	$(RECORD) decision 6 -- $(GO) test -run '^$$' -bench . -benchmem -benchtime 0.3s -timeout 30m $(STAGES)
	$(RECORD) program 1 -- $(GO) test -run '^$$' -bench 'Established|Features' -benchtime 1x -timeout 30m ./dataplane/xdp

.PHONY: bench-wire
bench-wire: ## end to end over veth: XDP, AF_XDP, AF_PACKET, and others on the same wire (root; 5 minutes)
	$(RECORD) wire 1 -- $(GO) test -run '^$$' -bench '^BenchmarkWire$$' -benchtime 1x -timeout 30m -p 1 ./bench/planes ./dataplane/xdp

.PHONY: bench-latency
bench-latency: ## round trips and connect() by percentile over veth, undisturbed and beside floods, commands and takeovers: alone on a machine (root; 10 minutes)
	$(RECORD) latency 1 -- $(GO) test -run '^$$' -bench '^BenchmarkLatency$$' -benchtime 1x -timeout 60m ./bench/latency $(LATENCY)

.PHONY: bench-kernel
bench-kernel: ## beside kernel IPVS in one guest: instructions a packet, by service and scheduler (15 minutes)
	$(RECORD) kernel 1 -- $(GO) test -run '^$$' -bench Kernel -benchtime 1x -cpu 1 -count 1 -timeout 60m ./bench/kernel -guests

.PHONY: bench-report
bench-report: ## BENCHMARKS.md and its plots, from bench/results
	$(GO) run ./bench/report write

# In its folder go test shows what tests print: who has opened connections, the program or Go.
CONFORMANCE = $(GO) test -C conformance -count=1 -kernel -timeout $(PATIENCE)

.PHONY: conformance
conformance: ## ask the real kernel in user-mode Linux: all recorded scenarios again, deliberate mistakes, and random ones (SEEDS, 1-500); says what share the XDP program has opened
	$(GO) test ./internal/ipvsnl -count=1 -run TestKernel -kernel -timeout $(PATIENCE)
	$(CONFORMANCE) -run 'TestScenarios|TestKernel|TestRestore|TestFaults'
	$(CONFORMANCE) -run TestRandom -seeds $(SEEDS) -plane afpacket
	$(CONFORMANCE) -run TestRandom -seeds $(SEEDS) -plane xdp
	$(CONFORMANCE) -run TestRandom -seeds $(SEEDS) -plane af_xdp
	$(CONFORMANCE) -run TestRandom -seeds $(SEEDS) -plane tcx

.PHONY: faults
faults: ## deliberate mistakes in what Go and the XDP program change together, each to be found within a minute, so often (FAULTS, 1); prints the median and the worst time (root; 5 minutes)
	$(GO) test ./dataplane/xdp -count=1 -v -run TestStatesFaults -faults $(FAULTS) -timeout $(PATIENCE)

.PHONY: guests
guests: ## the XDP tests, and VLANs and bonds, on Debian's kernels 6.1 and 6.12, in qemu (fetches them once)
	$(GO) test ./internal/guest -v -count=1 -run 'TestKernels|TestRun$$' -guests -timeout $(PATIENCE)

.PHONY: clean
clean: ## remove what make made
	rm -rf bin
