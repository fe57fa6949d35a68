# make bench-vpa        replays recorded use through this recommender, the Vertical Pod Autoscaler's own, krr's rule and a
#                       limit known before; VPA_USAGE is the CSV of recorded use. The etcd recordings are replayed too.
# make bench-vpa-model  measures the stages of the etcd model on real 3.5, 3.6 and 3.7 and records them at 1 Hz;
#                       some fifteen minutes.

.PHONY: bench-vpa bench-vpa-model

bench-vpa:
	cd test/bench/vpa && $(GO) run . -usage "$(abspath $(VPA_USAGE))" -recordings ../../../vpa/testdata/recordings -svg ../../../docs/benchmarks/vpa.svg

bench-vpa-model:
	mkdir -p vpa/testdata/recordings
	VPA_RECORD_DIR="$(CURDIR)/vpa/testdata/recordings" $(GO) test -tags bench -count=1 -timeout 60m -v ./test/bench/vpamodel
