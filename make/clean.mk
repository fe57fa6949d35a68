# Bulk deletion side by side with kubectl, on a real control plane; ten minutes.
.PHONY: bench-clean
bench-clean: build
	$(GO) run ./test/bench/clean -binary bin/etcdkeeper -objects 30000 -large 300000
