package splitter

import (
	"fmt"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// Remedy is something cheaper than a split, with what the model expects of it.
type Remedy struct {
	Name string `json:"name"`
	What string `json:"what"`
	// SavedBytes of the database and SavedWritesPerSecond are null where the remedy does not touch them, or what they
	// need is not known.
	SavedBytes           *int64   `json:"savedBytes"`
	SavedWritesPerSecond *float64 `json:"savedWritesPerSecond"`
	Effect               string   `json:"effect"`
}

// Thresholds of a remedy being worth a line.
const (
	// A namespace and stem with a fifth of the events is a source to look at.
	noisyShare = 0.2
	// Events that live on beyond the rate times the TTL by half are renewed or never expire.
	immortalFactor = 1.5
	// largestQuota is what etcd recommends not to exceed.
	largestQuota = 8 * bytesize.GiB
)

// remedies lists what is cheaper than a split, cheapest and most effective on the cause first.
func (m model) remedies(judged string) []Remedy {
	out := []Remedy{}
	events := m.e.find(Events.Resource)
	if events.Keys.Or(0) > 0 {
		out = append(out, m.eventRemedies(events)...)
	}
	if judged == leasesName {
		out = append(out, Remedy{Name: "lease intervals", What: "node leases are renewed every 10 s (kubelet's nodeLeaseDurationSeconds ÷ 4) and leader elections every 2 s: fewer controllers with leader election, or a longer --leader-elect-retry-period",
			Effect: "writes fall in proportion to the interval"})
	}
	s := m.e.Stress
	if s.DBSizeBytes != nil && s.DBSizeInUseBytes != nil {
		free := int64(s.DBSizeBytes.Value - s.DBSizeInUseBytes.Value)
		if free > int64(s.DBSizeBytes.Value/4) && free > 16<<20 {
			out = append(out, Remedy{Name: "defragmentation", What: "run etcdkeeper defrag", SavedBytes: &free,
				Effect: fmt.Sprintf("the database shrinks from %s to %s", human(s.DBSizeBytes.Value), human(s.DBSizeInUseBytes.Value))})
		}
	}
	if q := s.QuotaBytes; q != nil && q.Value < float64(largestQuota) {
		effect := "more room, and a longer restart and defragmentation"
		if h := s.QuotaHorizonSeconds; h != nil && s.DBSizeInUseBytes != nil && q.Value > s.DBSizeInUseBytes.Value {
			slope := (q.Value - s.DBSizeInUseBytes.Value) / h.Value
			effect = fmt.Sprintf("the quota lasts %s instead of %s", seconds((float64(largestQuota)-s.DBSizeInUseBytes.Value)/slope), seconds(h.Value))
		}
		out = append(out, Remedy{Name: "quota", What: fmt.Sprintf("raise --quota-backend-bytes from %s to %s", human(q.Value), largestQuota.Human()), Effect: effect})
	}
	return out
}

func (m model) eventRemedies(events ResourceEvidence) []Remedy {
	var out []Remedy
	ttl := m.e.EventTTL.Or(m.p.EventTTL.Seconds())
	live := events.Bytes.Or(0) + events.Keys.Value*(entryOverhead+leaseOverhead)
	half := int64(m.scale * live / fill(entrySize(events)) / 2)
	out = append(out, Remedy{Name: "event TTL", What: fmt.Sprintf("--event-ttl=%s instead of %s (0 keeps events for ever)", seconds(ttl/2), seconds(ttl)),
		SavedBytes: &half, Effect: "half of the live events; as many writes"})
	if len(m.e.Noisy) > 0 && m.e.Noisy[0].Share >= noisyShare {
		n := m.e.Noisy[0]
		bytes := int64(m.scale * (float64(n.Bytes) + float64(n.Keys)*(entryOverhead+leaseOverhead)) / fill(entrySize(events)))
		r := Remedy{Name: "noisiest source", What: fmt.Sprintf("stop what makes the events of %s in namespace %s: %s of all events", n.Stem, n.Namespace, percent(n.Share)),
			SavedBytes: &bytes, Effect: "its events, and their writes"}
		if events.WritesPerSecond != nil {
			w := events.WritesPerSecond.Value * n.Share
			r.SavedWritesPerSecond = &w
		}
		out = append(out, r)
	}
	if w := events.WritesPerSecond; w != nil && w.Value > 0 {
		saved := w.Value / 2
		out = append(out, Remedy{Name: "EventRateLimit", What: fmt.Sprintf("the admission plugin EventRateLimit with a server limit of %.3g events/s, half of today's; events beyond it are lost", events.CreatesPerSecond.Or(w.Value)/2),
			SavedWritesPerSecond: &saved, Effect: "half of the events' writes, in bursts most"})
	}
	if c := events.CreatesPerSecond; c != nil && c.Source != FromModel && c.Value > 0 && events.Keys.Value > immortalFactor*c.Value*ttl && events.Keys.Value > 1000 {
		excess := events.Keys.Value - c.Value*ttl
		bytes := int64(excess / events.Keys.Value * live / fill(entrySize(events)) * m.scale)
		out = append(out, Remedy{Name: "immortal events", What: fmt.Sprintf("%.0f events live where %.3g/s for %s make %.0f: leader changes of etcd more often than the TTL, or --event-ttl=0, keep the rest for ever", events.Keys.Value, c.Value, seconds(ttl), c.Value*ttl),
			SavedBytes: &bytes, Effect: "etcdkeeper clean removes them by plan"})
	}
	return out
}
