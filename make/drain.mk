# make bench-drain  what clients notice of a member's defragmentation, plain and with drained clients (docs/benchmarks/drain.md)
.PHONY: bench-drain
bench-drain:
	$(GO) run ./test/bench/drain $(BENCH_FLAGS)
