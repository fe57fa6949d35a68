# The predictions of split recommend beside what is measured, and the reading of a write-ahead log beside etcd's own;
# six minutes.
.PHONY: bench-split
bench-split:
	$(GO) test -run '^$$' -bench BenchmarkWAL -benchtime 5x ./internal/etcdfile
	$(GO) test -run '^$$' -bench BenchmarkSplit -benchtime 1x -timeout 15m ./test/bench/split
