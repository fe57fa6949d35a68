# make build   the stripped binary, bin/etcdkeeper
# make test    what needs nothing but Go: unprivileged, no network, minutes
# make ci      everything else: real servers, race detector, static checks, fuzzing
#
# Each folder of work adds its own targets in make/*.mk, and hooks them in by
#   CI_TARGETS += …          run by make ci
#   DOCS_TARGETS += …        run by make docs, writes generated pages
#   DOCS_CHECK_TARGETS += …  run by make docs-check, fails where one is stale

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
DATE ?= $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

# A real suite waits for servers on machines of any speed: go test's ten
# minutes a package are too few for the slowest.
REAL_TIMEOUT ?= 40m
FUZZTIME ?= 10s

CI_TARGETS :=
DOCS_TARGETS :=
DOCS_CHECK_TARGETS :=

.PHONY: all build test ci vet fmt-check staticcheck prebuild race real fuzz-smoke docs docs-check clean
all: build

-include $(sort $(wildcard make/*.mk))

build:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)" -o bin/etcdkeeper ./cmd/etcdkeeper

test:
	$(GO) test -short ./...

# The order is from what fails fastest to what takes longest; make -k ci goes
# on after a failure.
ci: fmt-check vet docs-check staticcheck prebuild $(CI_TARGETS) race fuzz-smoke real

fmt-check:
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }

vet:
	$(GO) vet ./...

staticcheck:
	path=$$($(GO) run ./test/prebuild -path staticcheck staticcheck) && "$$path" ./...

# Builds etcd, Kubernetes and the tools once, so that no test waits for it.
prebuild:
	$(GO) run ./test/prebuild

# What is under test/ drives programs built without the detector.
race:
	CGO_ENABLED=1 $(GO) test -race -short -timeout $(REAL_TIMEOUT) $$($(GO) list ./... | grep -v /etcdkeeper/test/)

# One package after the other, because each starts clusters of its own. A test
# that skips itself fails the target.
real:
	$(GO) build -o bin/cireport ./test/cireport
	$(GO) test -json -count=1 -p 1 -timeout $(REAL_TIMEOUT) ./... | bin/cireport $(CIREPORT_FLAGS)

fuzz-smoke:
	GO="$(GO)" FUZZTIME="$(FUZZTIME)" test/fuzz-smoke

docs: $(DOCS_TARGETS)

docs-check: $(DOCS_CHECK_TARGETS)

clean:
	rm -rf bin dist
