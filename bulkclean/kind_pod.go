package bulkclean

import (
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

var podKind = &Kind{
	Name:      "pods",
	Resource:  kube.Resource{Version: "v1", Plural: "pods"},
	dir:       "pods",
	object:    "Pod",
	protobuf:  podFacts,
	liveOwner: true,
	cause:     "lower the controller manager's --terminated-pod-gc-threshold, or set a TTL on what creates the pods",
	json: func(f *Facts, text []byte) error {
		var p corev1.Pod
		if err := json.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("JSON: %w", err)
		}
		raw, err := p.Marshal()
		if err != nil {
			return err
		}
		return podFacts(f, raw)
	},
}

// podFacts reads a v1 Pod. A pod does not say when it ended: the latest end of its containers and the latest change of
// its conditions do, and for a pod that never ran (evicted at once) its start and its creation.
func podFacts(f *Facts, raw []byte) error {
	err := fields(raw, func(m field) error {
		switch m.id {
		case 1:
			return f.metadata(m.bytes)
		case 3:
			return fields(m.bytes, func(s field) error { return podStatus(f, s) })
		}
		return nil
	})
	if f.State == "" {
		f.FinishedAt = time.Time{}
	} else {
		f.latest(f.Created)
	}
	if f.mirror {
		f.Kept = "the mirror of a static pod: the kubelet would make it again"
	}
	return err
}

func podStatus(f *Facts, s field) error {
	switch s.id {
	case 1:
		switch string(s.bytes) {
		case "Succeeded":
			f.State = Complete
		case "Failed":
			f.State = Failed
		}
	case 2:
		c, err := condition(s.bytes)
		if err != nil {
			return err
		}
		f.latest(c.at)
	case 7:
		t, err := timestamp(s.bytes)
		if err != nil {
			return err
		}
		f.latest(t)
	case 8, 10, 13:
		return containerStatus(f, s.bytes)
	}
	return nil
}

// containerStatus walks ContainerStatus.state.terminated.finishedAt.
func containerStatus(f *Facts, raw []byte) error {
	return fields(raw, func(c field) error {
		if c.id != 2 {
			return nil
		}
		return fields(c.bytes, func(state field) error {
			if state.id != 3 {
				return nil
			}
			return fields(state.bytes, func(t field) error {
				if t.id != 6 {
					return nil
				}
				at, err := timestamp(t.bytes)
				if err != nil {
					return err
				}
				f.latest(at)
				return nil
			})
		})
	})
}

// latest moves FinishedAt forward to t.
func (o *Facts) latest(t time.Time) {
	if t.After(o.FinishedAt) {
		o.FinishedAt = t
	}
}
