package bulkclean

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

var eventKind = &Kind{
	Name:     "events",
	Resource: kube.Resource{Version: "v1", Plural: "events"},
	dir:      "events",
	object:   "Event",
	protobuf: eventFacts,
	leased:   true,
	cause:    "events end with their lease: these have none, so they were restored or copied without it",
	json: func(f *Facts, text []byte) error {
		var e corev1.Event
		if err := json.Unmarshal(text, &e); err != nil {
			return fmt.Errorf("JSON: %w", err)
		}
		raw, err := e.Marshal()
		if err != nil {
			return err
		}
		return eventFacts(f, raw)
	},
}

// eventFacts reads a v1 Event, whose end is the last time it was seen.
func eventFacts(f *Facts, raw []byte) error {
	f.State = Complete
	err := fields(raw, func(m field) error {
		switch m.id {
		case 1:
			return f.metadata(m.bytes)
		case 6, 7, 10:
			t, err := timestamp(m.bytes)
			if err != nil {
				return err
			}
			f.latest(t)
		case 11:
			return fields(m.bytes, func(s field) error {
				if s.id != 2 {
					return nil
				}
				t, err := timestamp(s.bytes)
				if err != nil {
					return err
				}
				f.latest(t)
				return nil
			})
		}
		return nil
	})
	f.latest(f.Created)
	return err
}
