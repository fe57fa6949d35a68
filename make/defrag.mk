# make bench-defrag       what clients notice of a rolling defragmentation, beside etcdctl's (docs/benchmarks/defrag.md)
# make bench-defrag-idle  what an idle daemon uses over ten minutes
.PHONY: bench-defrag bench-defrag-idle
bench-defrag:
	$(GO) run ./test/bench/defrag $(BENCH_FLAGS)

bench-defrag-idle:
	$(GO) run ./test/bench/defrag -idle 10m
