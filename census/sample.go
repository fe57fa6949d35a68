package census

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// A resource's first values are all looked into, later ones more and more rarely: a few hundred of a million.
const (
	sampleAll   = 64
	sampleRatio = 50 // from then on, one more for each 2 per cent of keys
	maxManagers = 64
)

// sampler looks into a few values of a resource. Each stands for the keys since the one before.
type sampler struct {
	next, last, sampled int64
	managers            map[string]*int64
	noTTL               int64    // finished Jobs and Workflows without a TTL
	ofCron              int64    // those that a CronJob or CronWorkflow made
	events              []sample // of events alone
}

// sample is a key that was looked into, for as many as it stands for.
type sample struct{ written, weight int64 }

// due is how many keys the value of key number n stands for, 0 where it is not to be looked into.
func (s *sampler) due(n int64) int64 {
	if n < s.next {
		return 0
	}
	weight := n - s.last
	s.last = n
	s.next = n + 1
	if n >= sampleAll {
		s.next += n / sampleRatio
	}
	return weight
}

// take looks into a value and gives the time of its creation, and the latest write that its managedFields tell of; 0
// where that is not known.
func (s *sampler) take(value []byte, weight int64, name resourceName) (created, written int64) {
	m, err := keyspace.ReadMeta(value)
	if err != nil {
		return 0, 0
	}
	s.sampled++
	seen := [8]string{}
	n := 0
	for manager := range m.Managers() {
		written = max(written, manager.Time)
		if len(manager.Name) == 0 || slices.Contains(seen[:n], string(manager.Name)) {
			continue
		}
		count := s.managers[string(manager.Name)]
		if count == nil {
			if len(s.managers) >= maxManagers {
				continue
			}
			if s.managers == nil {
				s.managers = map[string]*int64{}
			}
			count = new(int64)
			s.managers[string(manager.Name)] = count
		}
		*count += weight
		if n < len(seen) {
			seen[n] = string(manager.Name)
			n++
		}
	}
	switch name {
	case resourceName{"batch", "jobs"}:
		if finished, ttl := jobFinished(value, m.Body); finished && !ttl {
			s.finish(&m, "CronJob", weight)
		}
	case resourceName{"argoproj.io", "workflows"}:
		if finished, ttl := workflowFinished(value); finished && !ttl {
			s.finish(&m, "CronWorkflow", weight)
		}
	case resourceName{"", "events"}:
		// Each write of an event gives it its time anew: one that goes on happening is no leftover.
		if at := max(m.Created, written); at > 0 {
			s.events = append(s.events, sample{at, weight})
		}
	}
	return m.Created, written
}

// finish counts what is finished and has no TTL. What a controller of the kind cron has made is deleted by that
// controller, which keeps a few of the last.
func (s *sampler) finish(m *keyspace.Meta, cron string, weight int64) {
	for o := range m.Owners() {
		if o.Controller && string(o.Kind) == cron {
			s.ofCron += weight
			return
		}
	}
	s.noTTL += weight
}

// writtenBefore is how many of the sampled events were last written before a time, before scaling.
func (s *sampler) writtenBefore(at int64) (n int64) {
	for _, e := range s.events {
		if e.written < at {
			n += e.weight
		}
	}
	return n
}

// scale makes an estimate for all keys of what was counted up to the last sample.
func (s *sampler) scale(n, keys int64) int64 {
	if s.last == 0 {
		return 0
	}
	return int64(float64(n)*float64(keys)/float64(s.last) + 0.5)
}

func (s *sampler) topManagers(n int, keys int64) []Manager {
	out := make([]Manager, 0, len(s.managers))
	for name, count := range s.managers {
		out = append(out, Manager{Manager: Printable(name), Objects: s.scale(*count, keys)})
	}
	slices.SortFunc(out, func(a, b Manager) int {
		return cmp.Or(cmp.Compare(b.Objects, a.Objects), strings.Compare(a.Manager, b.Manager))
	})
	return out[:min(n, len(out))]
}

// Numbers of the fields, from k8s.io/api/batch/v1/generated.proto.
const (
	jobSpec, jobStatus      = 2, 3
	jobTTL                  = 8
	jobConditions           = 1
	conditionType           = 1
	conditionStatus         = 2
	conditionTrue           = "True"
	jobComplete, jobFailure = "Complete", "Failed"
)

// jobFinished tells whether a Job has ended, and whether it has a TTL. body is that of a value in protobuf.
func jobFinished(value, body []byte) (finished, ttl bool) {
	if body == nil {
		return textJobFinished(value)
	}
	for f, err := range keyspace.Fields(body) {
		if err != nil {
			return false, false
		}
		if f.Type != protowire.BytesType {
			continue
		}
		switch f.Number {
		case jobSpec:
			for g, err := range keyspace.Fields(f.Bytes) {
				ttl = ttl || err == nil && g.Number == jobTTL
			}
		case jobStatus:
			for g, err := range keyspace.Fields(f.Bytes) {
				if err == nil && g.Number == jobConditions && isTrue(g.Bytes) {
					finished = true
				}
			}
		}
	}
	return finished, ttl
}

// textJobFinished is jobFinished for an API server that stores JSON or CBOR.
func textJobFinished(value []byte) (finished, ttl bool) {
	var j struct {
		Spec struct {
			TTL *int32 `json:"ttlSecondsAfterFinished"`
		} `json:"spec"`
		Status struct {
			Conditions []struct {
				Type   string `json:"type"`
				Status string `json:"status"`
			} `json:"conditions"`
		} `json:"status"`
	}
	if keyspace.DecodeText(value, &j) != nil {
		return false, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == jobComplete || c.Type == jobFailure) && c.Status == conditionTrue {
			finished = true
		}
	}
	return finished, j.Spec.TTL != nil
}

func isTrue(condition []byte) bool {
	ended, yes := false, false
	for f, err := range keyspace.Fields(condition) {
		if err != nil {
			return false
		}
		switch f.Number {
		case conditionType:
			ended = string(f.Bytes) == jobComplete || string(f.Bytes) == jobFailure
		case conditionStatus:
			yes = string(f.Bytes) == conditionTrue
		}
	}
	return ended && yes
}

// workflowFinished is jobFinished for an Argo Workflow.
func workflowFinished(value []byte) (finished, ttl bool) {
	var w struct {
		Spec struct {
			TTLStrategy *json.RawMessage `json:"ttlStrategy"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	if keyspace.DecodeText(value, &w) != nil {
		return false, false
	}
	switch w.Status.Phase {
	case "Succeeded", "Failed", "Error":
		finished = true
	}
	return finished, w.Spec.TTLStrategy != nil
}
