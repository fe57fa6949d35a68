package splitter

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/prometheus/common/expfmt"
	prommodel "github.com/prometheus/common/model"
)

// maxAPIServerMetrics bounds what is read of an API server's metrics; a busy one has some tens of MiB.
const maxAPIServerMetrics = 128 << 20

// apiServerLook is the counts of one API server at one time, by resource name.
type apiServerLook struct {
	writes, creates, deletes map[string]float64
	objects                  map[string]float64
}

// readAPIServer reads etcd_requests_total and the number of stored objects. It asks nothing of etcd.
func readAPIServer(ctx context.Context, client *http.Client, url string) (apiServerLook, error) {
	if client == nil {
		client = http.DefaultClient
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return apiServerLook{}, fmt.Errorf("metrics of the API server: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return apiServerLook{}, fmt.Errorf("metrics of the API server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return apiServerLook{}, fmt.Errorf("metrics of the API server: %s answered %s: want a URL that this client may read, such as one with a token", url, resp.Status)
	}
	return parseAPIServer(io.LimitReader(resp.Body, maxAPIServerMetrics))
}

func parseAPIServer(r io.Reader) (apiServerLook, error) {
	l := apiServerLook{map[string]float64{}, map[string]float64{}, map[string]float64{}, map[string]float64{}}
	parser := expfmt.NewTextParser(prommodel.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return l, fmt.Errorf("metrics of the API server: %w", err)
	}
	for _, m := range families["etcd_requests_total"].GetMetric() {
		labels := map[string]string{}
		for _, p := range m.GetLabel() {
			labels[p.GetName()] = p.GetValue()
		}
		name := GroupResource{labels["group"], labels["resource"]}.Name()
		if labels["resource"] == "" {
			name = labels["type"] // before Kubernetes 1.34
		}
		n := m.GetCounter().GetValue()
		switch labels["operation"] {
		case "create":
			l.creates[name] += n
			l.writes[name] += n
		case "delete":
			l.deletes[name] += n
			l.writes[name] += n
		case "update":
			l.writes[name] += n
		}
	}
	for _, family := range []string{"apiserver_resource_objects", "apiserver_storage_objects"} {
		for _, m := range families[family].GetMetric() {
			group, resource := "", ""
			for _, p := range m.GetLabel() {
				switch p.GetName() {
				case "group":
					group = p.GetValue()
				case "resource":
					resource = p.GetValue()
				}
			}
			name := resource
			if family == "apiserver_resource_objects" {
				name = GroupResource{group, resource}.Name()
			}
			if v := m.GetGauge().GetValue(); v >= 0 {
				l.objects[name] = v
			}
		}
	}
	return l, nil
}

// apiServerEvidence is the rates between two looks. Keys that expire are not requests, so an event counts twice.
func apiServerEvidence(first, last look, span float64) Evidence {
	e := Evidence{Taken: last.at, WindowSeconds: figure(span, FromAPIServer, Measured)}
	e.note("the writes of the API server's metrics are those of the one API server that was asked, conflicts included")
	for name, n := range last.api.writes {
		r := e.resource(name)
		made := (last.api.creates[name] - first.api.creates[name]) / span
		gone := (last.api.deletes[name] - first.api.deletes[name]) / span
		w := (n - first.api.writes[name]) / span
		if name == Events.Resource {
			w, gone = w+made, gone+made
		}
		r.WritesPerSecond = figure(w, FromAPIServer, Measured)
		r.CreatesPerSecond = figure(made, FromAPIServer, Measured)
		r.DeletesPerSecond = figure(gone, FromAPIServer, Measured)
	}
	for name, n := range last.api.objects {
		e.resource(name).Keys = figure(n, FromAPIServer, Measured)
	}
	return e
}
