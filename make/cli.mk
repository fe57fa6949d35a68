# The pages that follow from the code.
DOCS_TARGETS += docs-generated
DOCS_CHECK_TARGETS += docs-generated-check

.PHONY: docs-generated docs-generated-check
docs-generated:
	$(GO) run ./internal/gendocs

docs-generated-check:
	$(GO) run ./internal/gendocs -check

# What the daemon costs while nothing happens; ten minutes.
.PHONY: bench-idle
bench-idle: build
	$(GO) run ./test/bench/idle -binary bin/etcdkeeper
