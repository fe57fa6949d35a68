package vpa

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// fullConfidence is the history after which a recommendation is as good as it
// gets: two weeks show what happens weekly twice.
const fullConfidence = 14 * 24 * time.Hour

// Recommendation is what a member's container should be given, with the reason
// of every number. Numbers that are not known are null in JSON.
type Recommendation struct {
	Member         string    `json:"member"` // its id
	Name           string    `json:"name"`
	At             time.Time `json:"at"`
	Samples        int       `json:"samples"`
	HistorySeconds float64   `json:"historySeconds"`
	// Confidence is the share of two weeks that was observed, 0 to 1.
	Confidence      Number            `json:"confidence"`
	ConfidenceWords string            `json:"confidenceWords"`
	CPU             CPURecommendation `json:"cpu"`
	Memory          MemoryAdvice      `json:"memory"`
	LiveHeap        Amount            `json:"liveHeap"`
	GoMemLimit      Amount            `json:"goMemLimit"`
	Quota           Amount            `json:"quotaBackend"`
	Volume          Amount            `json:"volume"`
	Drivers         DriverParts       `json:"drivers"`
	OOMs            []OOMEvent        `json:"oomKills"`
	Restarts        []RestartEvent    `json:"restarts"`
	// Decisive is the member whose numbers these are, where the maximum over the
	// members was taken.
	Decisive string `json:"decisiveMember,omitempty"`
}

// CPURecommendation is in cores.
type CPURecommendation struct {
	Request Number `json:"requestCores"`
	Lower   Number `json:"lowerCores"`
	Upper   Number `json:"upperCores"`
	Words   string `json:"words"`
	NoLimit string `json:"noLimit"`
}

// MemoryAdvice is the container's memory.
type MemoryAdvice struct {
	Request Amount `json:"request"`
	Limit   Amount `json:"limit"`
	Lower   Number `json:"lowerBytes"` // below it the limit should grow now
	Upper   Number `json:"upperBytes"` // above it the limit may shrink
	// Target is where the limit would be without hysteresis.
	Target Number `json:"targetBytes"`
	// Basis is history, model, restart, oom or minimum: what asked for most.
	Basis string `json:"basis"`
	// Kind is anonymous where the history is of anonymous memory, else total.
	Kind string `json:"kind"`
}

// DriverParts is the memory by driver, of the model.
type DriverParts struct {
	Index    Number `json:"indexBytes"`
	Raft     Number `json:"raftBytes"`
	Watch    Number `json:"watchBytes"`
	Range    Number `json:"rangeBytes"`
	Live     Number `json:"liveHeapBytes"`
	Garbage  Number `json:"garbageBytes"`
	Database Number `json:"databaseBytes"`
}

const noCPULimit = "no CPU limit: a throttled etcd misses heartbeats and loses its leader"

// Recommend settles the recommendation at time now. Without history every
// number is unknown, and the words say so.
func (r *Recommender) Recommend(now time.Time) Recommendation {
	observed := r.observed()
	rec := Recommendation{
		Member: r.member, At: now.UTC(), Samples: r.samples, HistorySeconds: observed.Seconds(),
		Confidence:      Number(min(1, observed.Hours()/fullConfidence.Hours())),
		ConfidenceWords: confidenceWords(observed, r.samples), OOMs: r.events, Restarts: r.restarts,
	}
	if rec.OOMs == nil {
		rec.OOMs = []OOMEvent{}
	}
	if rec.Restarts == nil {
		rec.Restarts = []RestartEvent{}
	}
	rec.CPU = r.recommendCPU(now)
	if len(r.peaks.windows) == 0 {
		none := unknownAmount("not known: no memory was observed yet")
		n := Number(math.NaN())
		rec.Memory = MemoryAdvice{Request: none, Limit: none, Lower: n, Upper: n, Target: n, Basis: basisNone, Kind: "none"}
		rec.LiveHeap, rec.GoMemLimit, rec.Quota, rec.Volume = none, none, none, none
		rec.Drivers = DriverParts{n, n, n, n, n, n, n}
		return rec
	}
	d := r.decide(now)
	rec.Memory = r.memoryAdvice(now, d)
	rec.LiveHeap, rec.GoMemLimit, rec.Quota, rec.Volume = d.model.Live, d.model.GoMemLimit, d.model.Quota, d.model.Volume
	if !d.model.Known {
		why := unknownAmount("not known: no source gave the live heap or the number of keys")
		rec.LiveHeap, rec.GoMemLimit, rec.Quota, rec.Volume = why, why, why, why
		d.model.Index, d.model.Raft, d.model.Watch, d.model.Range = math.NaN(), math.NaN(), math.NaN(), math.NaN()
		d.model.Database.Bytes = Number(math.NaN())
	}
	rec.Drivers = DriverParts{
		Index: Number(d.model.Index), Raft: Number(d.model.Raft), Watch: Number(d.model.Watch), Range: Number(d.model.Range),
		Live: Number(r.before.LiveHeap), Garbage: Number(r.before.Drivers.HeapGarbage), Database: d.model.Database.Bytes,
	}
	return rec
}

// observed is the history, gaps left out, to the second while it is short.
func (r *Recommender) observed() time.Duration {
	d := r.peaks.observed()
	if span := r.last.Sub(r.first); span >= 0 && len(r.peaks.windows) <= 2 {
		d = min(d, span)
	}
	return d
}

func confidenceWords(observed time.Duration, samples int) string {
	days := observed.Hours() / 24
	switch {
	case samples == 0:
		return "none: nothing was observed yet"
	case days < 1:
		return fmt.Sprintf("low: %s of history, less than a day", observed.Round(time.Second))
	case days < 7:
		return fmt.Sprintf("medium: %.1f days of history, less than a week", days)
	case observed < fullConfidence:
		return fmt.Sprintf("good: %.1f days of history; what happens weekly was seen once", days)
	}
	return fmt.Sprintf("full: %.0f days of history", days)
}

// recommendCPU asks for the 95th percentile: etcd needs its share while the node
// is busy and takes more when it is not.
func (r *Recommender) recommendCPU(now time.Time) CPURecommendation {
	nan := Number(math.NaN())
	c := CPURecommendation{Request: nan, Lower: nan, Upper: nan, NoLimit: noCPULimit, Words: "not known: no CPU use was observed yet"}
	if r.cpu.Empty() {
		return c
	}
	target := r.cpu.Percentile(0.95)
	r.cpuBand.settle(now, target, target*(1-modelStep), r.cfg.Policy)
	request := math.Ceil(r.cpuBand.Held*1000) / 1000
	days := max(r.peaks.observed().Hours()/24, 1.0/24)
	c.Request, c.Lower, c.Upper = Number(request), Number(r.cpu.Percentile(0.5)), Number(r.cpu.Percentile(0.99)*(1+1/days))
	c.Words = fmt.Sprintf("request %.0fm = p95 of CPU use", request*1000)
	return c
}

func (r *Recommender) memoryAdvice(now time.Time, d decision) MemoryAdvice {
	p := r.cfg.Policy
	m := MemoryAdvice{Basis: d.basis, Target: Number(d.target), Lower: Number(min(d.tight, d.limit)), Kind: "total"}
	if r.steady {
		m.Kind = "anonymous"
	}
	days := max(r.peaks.observed().Hours()/24, 1.0/24)
	m.Upper = Number(d.limit / (1 - p.ShrinkShare) * (1 + 1/days))
	m.Limit = r.explainLimit(d)
	limit := math.Ceil(d.limit/mib) * mib
	m.Limit.Bytes = Number(limit)
	request := d.model.Request
	if !d.model.Known || !known(float64(request.Bytes)) {
		v := r.peaks.quantile(0.99)
		request = sumOfParts("request", Part{Name: "use", Words: "p99 of memory use " + size(v), Bytes: Number(v)})
	}
	r.request.settle(now, float64(request.Bytes), float64(request.Bytes)*(1-modelStep), p)
	held := math.Ceil(r.request.Held/mib) * mib
	if held > limit {
		held = limit
		request.Words += "; no more than the limit"
	} else if least := float64(p.MinLimit); held < least {
		held = least
		request.Words += "; no less than " + size(least)
	} else if off := held - float64(request.Bytes); math.Abs(off) > mib {
		request.Words += fmt.Sprintf("; kept at %s, since a smaller change is not worth a resize", size(held))
	}
	request.Bytes = Number(held)
	m.Request = request
	return m
}

// explainLimit puts the limit into words: what asked for most, as a sum of its
// parts, and the hysteresis that holds it.
func (r *Recommender) explainLimit(d decision) Amount {
	h := d.history
	use := "memory"
	if r.steady {
		use = "anonymous memory"
	}
	var a Amount
	switch d.basis {
	case basisModel:
		a = d.model.Limit
	case basisRestart:
		a = d.model.RestartGate
		a.Words = strings.Replace(a.Words, "restart needs", "limit", 1) + ", which a restart needs"
	case basisOOM:
		last := r.events[len(r.events)-1]
		a = sumOfParts("limit", Part{Name: "oom", Words: fmt.Sprintf("what the OOM kill of %s asks for, which the driver %q had caused: %s", last.Time.UTC().Format(time.RFC3339), last.Driver, size(h.floor)), Bytes: Number(h.floor)})
	case basisMinimum:
		a = sumOfParts("limit", Part{Name: "minimum", Words: "the least limit " + size(float64(r.cfg.Policy.MinLimit)), Bytes: Number(r.cfg.Policy.MinLimit)})
	default:
		parts := []Part{
			{Name: "peak", Words: fmt.Sprintf("highest %s %s", use, size(h.level)), Bytes: Number(h.level)},
			{Name: "headroom", Words: fmt.Sprintf("headroom %s for what was not seen yet", size(h.headroom)), Bytes: Number(h.headroom)},
		}
		if d.database > 0 {
			parts = append(parts, d.model.databasePart())
		}
		a = sumOfParts("limit", parts...)
	}
	if off := d.limit - d.target; math.Abs(off) > mib {
		a.Words += fmt.Sprintf("; kept at %s until the target is above it or has been %.0f %% below it for %s", size(d.limit), r.cfg.Policy.ShrinkShare*100, r.cfg.Policy.ShrinkAfter)
		a.Parts = append(a.Parts, Part{Name: "held", Words: "hysteresis", Bytes: Number(off)})
	}
	return a
}
