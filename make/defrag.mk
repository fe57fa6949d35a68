# make bench-defrag  what clients notice of a rolling defragmentation, beside etcdctl's (docs/benchmarks/defrag.md)
.PHONY: bench-defrag
bench-defrag:
	$(GO) run ./test/bench/defrag $(BENCH_FLAGS)
