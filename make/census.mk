# What a census costs, beside the floor under it and its peers. About half an hour on two cores.
.PHONY: bench-census bench-census-live bench-census-file bench-census-large
bench-census: bench-census-live bench-census-file bench-census-large

bench-census-live: build
	$(GO) run ./test/bench/census -versions 3.7,3.6

bench-census-file: build
	$(GO) run ./test/bench/census -file -keys 1000000

# Memory does not grow with the keyspace.
bench-census-large: build
	$(GO) run ./test/bench/census -versions 3.7,3.6 -keys 3000000 -ways stream,census -rated=false
