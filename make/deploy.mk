# make deploy-generate  copies the rules and the dashboard to where the chart and kustomize want them
# make deploy-check     checks everything under deploy/: with helm, kustomize, promtool, a real kube-apiserver, a real
#                       Prometheus beside real etcd servers. make ci runs the same tests among those on real servers.
# make release          binaries for every platform, SBOM and checksums in dist/; publishes nothing
# make image            the container image, by docker buildx
# make pictures         draws the terminals and the dashboard of the README anew, from the demo and a real Prometheus

.PHONY: deploy-generate deploy-check release image pictures

DOCS_TARGETS += deploy-generate

deploy-generate:
	cp deploy/prometheus/rules.yaml deploy/helm/etcdkeeper/files/rules.yaml
	cp deploy/grafana/etcdkeeper.json deploy/helm/etcdkeeper/files/dashboard.json
	cp deploy/grafana/etcdkeeper.json deploy/kustomize/monitoring/dashboard.json
	{ printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: etcdkeeper\nspec:\n'; \
	  sed -n '/^groups:/,$$s/^/  /p' deploy/prometheus/rules.yaml; } > deploy/kustomize/monitoring/prometheusrule.yaml

deploy-check:
	$(GO) test -count=1 -timeout $(REAL_TIMEOUT) ./test/deploy/...

PLATFORMS ?= linux/amd64 linux/arm64 linux/ppc64le linux/s390x darwin/amd64 darwin/arm64

DIST ?= dist

# The binaries are reproducible: -trimpath, no VCS stamp but what LDFLAGS say, and the date is the commit's.
release:
	rm -rf "$(DIST)" && mkdir -p "$(DIST)"
	set -e; for p in $(PLATFORMS); do \
	  os=$${p%/*} arch=$${p#*/}; name=etcdkeeper-$(VERSION)-$$os-$$arch; mkdir -p "$(DIST)/$$name"; \
	  echo "$$name"; \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)" -o "$(DIST)/$$name/etcdkeeper" ./cmd/etcdkeeper; \
	  cp LICENSE "$(DIST)/$$name/"; \
	  $(GO) run ./test/sbom -binary "$(DIST)/$$name/etcdkeeper" -version "$(VERSION)" -created "$(DATE)" > "$(DIST)/$$name.spdx.json"; \
	  tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="$(DATE)" -C "$(DIST)" -cf - $$name | gzip -n > "$(DIST)/$$name.tar.gz"; \
	  rm -r "$(DIST)/$$name"; \
	done
	cd "$(DIST)" && sha256sum *.tar.gz *.spdx.json > SHA256SUMS

IMAGE ?= etcdkeeper/etcdkeeper:$(VERSION)
IMAGE_PLATFORMS ?= linux/amd64,linux/arm64

image:
	docker buildx build -f deploy/image/Dockerfile --platform $(IMAGE_PLATFORMS) \
	  --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg DATE=$(DATE) -t $(IMAGE) .

# Each picture is what commands printed in the part of the demo's tour with these numbers.
pictures: build
	bin/etcdkeeper demo --once | tee bin/demo.txt
	for picture in defrag:4,6 clean:9; do \
	  awk -v want=",$${picture#*:}," '/^== [0-9]+\./ { n = $$2; sub(/\..*/, "", n); on = index(want, "," n ",") > 0; next } on' bin/demo.txt | \
	    $(GO) run ./test/pictures terminal > docs/pictures/$${picture%:*}.svg; \
	done
	PICTURES="$(CURDIR)/docs/pictures" $(GO) test -count=1 -timeout 20m -run 'TestPrometheus$$' ./test/deploy
