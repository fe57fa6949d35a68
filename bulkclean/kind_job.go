package bulkclean

import (
	"encoding/json"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

var jobKind = &Kind{
	Name:       "jobs",
	Resource:   kube.Resource{Group: "batch", Version: "v1", Plural: "jobs"},
	dir:        "jobs",
	object:     "Job",
	protobuf:   jobFacts,
	dependents: "pods",
	cause:      "set spec.ttlSecondsAfterFinished in the Jobs it creates",
	json: func(f *Facts, text []byte) error {
		var j batchv1.Job
		if err := json.Unmarshal(text, &j); err != nil {
			return fmt.Errorf("JSON: %w", err)
		}
		raw, err := j.Marshal()
		if err != nil {
			return err
		}
		return jobFacts(f, raw)
	},
}

// jobFacts reads a batch/v1 Job.
func jobFacts(f *Facts, raw []byte) error {
	return fields(raw, func(m field) error {
		switch m.id {
		case 1:
			return f.metadata(m.bytes)
		case 2:
			return fields(m.bytes, func(s field) error {
				switch s.id {
				case 8:
					f.HasTTL, f.TTL = true, time.Duration(int32(s.num))*time.Second
				case 10:
					f.Suspended = s.num != 0
				case 15:
					f.ManagedBy = string(s.bytes)
				}
				return nil
			})
		case 3:
			return jobStatus(f, m.bytes)
		}
		return nil
	})
}

func jobStatus(f *Facts, raw []byte) error {
	return fields(raw, func(s field) error {
		switch {
		case s.id == 1:
			// SuccessCriteriaMet and FailureTarget are on the way to an end, Suspended is none.
			c, err := condition(s.bytes)
			if err != nil || c.status != "True" {
				return err
			}
			switch c.kind {
			case "Complete":
				f.State, f.FinishedAt = Complete, c.at
			case "Failed":
				f.State, f.FinishedAt = Failed, c.at
			}
		case s.id == 4 && int32(s.num) != 0:
			f.Unsettled = fmt.Sprintf("%d of its pods are active", int32(s.num))
		case s.id == 11 && int32(s.num) != 0:
			f.Unsettled = fmt.Sprintf("%d of its pods are terminating", int32(s.num))
		case s.id == 8:
			n := 0
			if err := fields(s.bytes, func(field) error { n++; return nil }); err != nil {
				return err
			}
			if n > 0 {
				f.Unsettled = fmt.Sprintf("%d of its pods are not counted yet", n)
			}
		}
		return nil
	})
}

type statusCondition struct {
	kind, status string
	at           time.Time
}

// condition reads what Job and pod conditions have in common but for the transition time's number, 4 in both.
func condition(raw []byte) (c statusCondition, err error) {
	err = fields(raw, func(f field) error {
		switch f.id {
		case 1:
			c.kind = string(f.bytes)
		case 2:
			c.status = string(f.bytes)
		case 4:
			return readTime(&c.at, f.bytes)
		}
		return nil
	})
	return c, err
}
