package splitter

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verdict is the answer.
type Verdict string

// Verdicts.
const (
	Split             Verdict = "split"
	DoNotSplit        Verdict = "do not split"
	NotEnoughEvidence Verdict = "not enough evidence"
)

// RuleState is what a rule came to.
type RuleState string

// States of a rule.
const (
	Met     RuleState = "met"
	NotMet  RuleState = "not met"
	Unknown RuleState = "unknown"
)

// Rule is one comparison of a verdict: a value against its threshold.
type Rule struct {
	Name      string    `json:"name"`
	Resource  string    `json:"resource,omitempty"` // empty: of the main cluster
	Value     *float64  `json:"value"`
	Threshold float64   `json:"threshold"`
	Unit      string    `json:"unit"` // share, seconds, bytes
	State     RuleState `json:"state"`
	Source    Source    `json:"source,omitempty"`
	Reason    string    `json:"reason"`
}

// Proposal is a verdict with all it rests on.
type Proposal struct {
	Verdict   Verdict  `json:"verdict"`
	Resources []string `json:"resources"` // to move, with Split only
	Reason    string   `json:"reason"`
	Rules     []Rule   `json:"rules"`
	// Judged is the resource that the predictions are for: the one to move, else the first of the policy.
	Judged     string      `json:"judged"`
	Before     Prediction  `json:"before"`
	Main       Prediction  `json:"main"`  // after the move
	Shard      Prediction  `json:"shard"` // after the move
	Remedies   []Remedy    `json:"remedies"`
	Costs      []string    `json:"costs"`
	CannotMove []Immovable `json:"cannotMove"`
	Evidence   Evidence    `json:"evidence"`
}

// Immovable is a resource that overrides do not reach.
type Immovable struct {
	Resource   string   `json:"resource"`
	Bytes      *float64 `json:"bytes"`
	WriteShare *float64 `json:"writeShare"`
}

// Propose judges the evidence. It does no I/O.
func Propose(e Evidence, p Policy) Proposal {
	out := Proposal{Resources: []string{}, Evidence: e, Costs: costs(), CannotMove: immovable(e)}
	m := newModel(e, p)
	stress, stressRules := judgeStress(e.Stress, p)
	out.Rules = stressRules
	out.Before = m.before()

	var candidates []candidate
	for _, name := range p.Resources {
		gr, ok := ParseResource(name)
		if !ok {
			continue
		}
		c := judge(e, p, m, gr.Name(), stress)
		candidates = append(candidates, c)
		out.Rules = append(out.Rules, c.rules...)
	}
	best := choose(candidates)
	out.Judged = best.resource
	out.Main, out.Shard = m.after(best.resource)
	out.Verdict = best.verdict
	switch best.verdict {
	case Split:
		out.Resources = []string{best.resource}
	case DoNotSplit:
		// One resource that might pass with more evidence leaves the question open.
		for _, c := range candidates {
			if c.verdict == NotEnoughEvidence {
				out.Verdict, best = NotEnoughEvidence, c
				break
			}
		}
	}
	out.Reason = best.reason
	if dominant := out.dominant(e); dominant != "" {
		out.Reason += "; " + dominant
	}
	out.Remedies = m.remedies(best.resource)
	return out
}

// candidate is the judgement of one resource.
type candidate struct {
	resource   string
	verdict    Verdict
	reason     string
	rules      []Rule
	writeShare *float64
	sizeShare  *float64
	byLoad     bool
}

// judge applies the three reasons for a move to one resource.
func judge(e Evidence, p Policy, m model, name string, stress RuleState) candidate {
	c := candidate{resource: name}
	r := e.find(name)
	if n, _ := r.counted(); e.Revision > 0 && r.Keys.Or(0) == 0 && r.WritesPerSecond.Or(0) == 0 && n == 0 {
		return absent(p, name)
	}
	writes := Rule{Name: "writeShare", Resource: name, Threshold: p.WriteShare, Unit: "share", State: Unknown}
	short := e.WindowSeconds.Or(0) < p.MinWindow.Seconds()
	if total := m.totalWrites; total > 0 && r.WritesPerSecond != nil {
		share := r.WritesPerSecond.Value / total
		c.writeShare, writes.Value, writes.Source = &share, &share, r.WritesPerSecond.Source
		writes.State = met(share >= p.WriteShare)
		writes.Reason = fmt.Sprintf("%.1f of %.1f writes/s", r.WritesPerSecond.Value, total)
	} else if e.WindowSeconds != nil {
		zero := 0.0
		c.writeShare, writes.Value, writes.Source = &zero, &zero, e.WindowSeconds.Source
		writes.State, writes.Reason = NotMet, "no writes seen"
	} else if share, reason, ok := countedShare(e, r); ok {
		c.writeShare, writes.Value, writes.Source, writes.Reason, short = &share, &share, r.Puts.source(), reason, false
	} else {
		writes.Reason, short = "the writes were not measured: observe or watch the cluster, or give the write-ahead log", false
	}
	if short && e.WindowSeconds == nil {
		writes.State = Unknown
		writes.Reason += ", from no measurement: want the writes over at least " + shortly(p.MinWindow)
	} else if short {
		writes.State = Unknown
		writes.Reason += fmt.Sprintf(", over %s only: want at least %s", seconds(e.WindowSeconds.Value), shortly(p.MinWindow))
	}
	size := Rule{Name: "sizeShare", Resource: name, Threshold: p.SizeShare, Unit: "share", State: Unknown}
	if quota := e.Stress.QuotaBytes; quota != nil && (r.Bytes != nil || len(e.Resources) > 0) {
		bytes := m.footprint(r)
		share := bytes / quota.Value
		c.sizeShare, size.Value, size.Source = &share, &share, FromModel
		size.State = met(share >= p.SizeShare)
		size.Reason = fmt.Sprintf("%s with history of %s quota", human(bytes), human(quota.Value))
	} else if quota == nil {
		size.Reason = "the quota is not known"
	} else {
		size.Reason = "the sizes were not measured"
	}
	horizon := Rule{Name: "quotaHorizon", Resource: name, Threshold: p.QuotaHorizon.Seconds(), Unit: "seconds", State: Unknown}
	switch h := e.Stress.QuotaHorizonSeconds; {
	case h == nil && e.Stress.QuotaBytes != nil && e.Stress.DBSizeBytes != nil:
		horizon.State, horizon.Reason = NotMet, "no growth towards the quota is known"
	case h == nil:
		horizon.Reason = "neither size nor quota is known"
	default:
		horizon.Value, horizon.Source = &h.Value, h.Source
		main, _ := m.after(name)
		after := main.QuotaHorizonSeconds
		pushes := after == nil || *after >= p.QuotaHorizon.Seconds()
		horizon.State = met(h.Value < p.QuotaHorizon.Seconds() && pushes)
		horizon.Reason = fmt.Sprintf("the quota is full in %s", seconds(h.Value))
		if h.Value < p.QuotaHorizon.Seconds() && !pushes {
			horizon.Reason += ", and moving it does not change that enough"
		}
	}
	c.rules = []Rule{writes, size, horizon}
	c.decide(both(writes.State, stress), writes, size, horizon, stress)
	return c
}

// absent judges a resource that has no keys and no writes: what is not there has no share, however short one looked.
func absent(p Policy, name string) candidate {
	zero := 0.0
	rule := func(of string, value *float64, threshold float64, unit string) Rule {
		return Rule{Name: of, Resource: name, Value: value, Threshold: threshold, Unit: unit, State: NotMet, Reason: "the keyspace has no " + name}
	}
	return candidate{resource: name, verdict: DoNotSplit, reason: "the keyspace has no " + name, writeShare: &zero, sizeShare: &zero, rules: []Rule{
		rule("writeShare", &zero, p.WriteShare, "share"), rule("sizeShare", &zero, p.SizeShare, "share"), rule("quotaHorizon", nil, p.QuotaHorizon.Seconds(), "seconds")}}
}

// countedShare is a resource's part of the writes that were counted, where nothing tells over how long.
func countedShare(e Evidence, r ResourceEvidence) (share float64, reason string, ok bool) {
	total := 0.0
	for _, x := range e.Resources {
		n, _ := x.counted()
		total += n
	}
	n, ok := r.counted()
	if !ok || total == 0 {
		return 0, "", false
	}
	return n / total, fmt.Sprintf("%.0f of %.0f writes, over a time that nothing tells", n, total), true
}

// shortly is a threshold without its zero parts: 10m, not 10m0s.
func shortly(d time.Duration) string { return seconds(d.Seconds()) }

func (c *candidate) decide(load RuleState, writes, size, horizon Rule, stress RuleState) {
	switch {
	case load == Met:
		c.verdict, c.byLoad = Split, true
		c.reason = fmt.Sprintf("%s are %s of the writes (threshold %s) and the main cluster is under stress", c.resource, percent(*writes.Value), percent(writes.Threshold))
	case size.State == Met:
		c.verdict = Split
		c.reason = fmt.Sprintf("%s take %s of the quota with their history (threshold %s)", c.resource, percent(*size.Value), percent(size.Threshold))
	case horizon.State == Met:
		c.verdict = Split
		c.reason = fmt.Sprintf("%s, and without %s it lasts", horizon.Reason, c.resource)
	case load == NotMet && size.State == NotMet && horizon.State == NotMet:
		c.verdict = DoNotSplit
		why := "the main cluster is under no stress"
		if stress != NotMet {
			why = fmt.Sprintf("the write share of %s is %s (threshold %s)", c.resource, percent(*writes.Value), percent(writes.Threshold))
		}
		c.reason = fmt.Sprintf("%s, %s take %s of the quota (threshold %s), and the quota is not running out", why, c.resource, percent(*size.Value), percent(size.Threshold))
	default:
		c.verdict = NotEnoughEvidence
		var open []string
		for _, r := range []Rule{writes, size, horizon} {
			if r.State == Unknown && !(r.Name == "writeShare" && load == NotMet) {
				open = append(open, r.Name+": "+r.Reason)
			}
		}
		if load == Unknown && stress == Unknown {
			open = append(open, "stress: the members' metrics were not read")
		}
		c.reason = "for " + c.resource + ": " + strings.Join(open, "; ")
	}
}

// clearlyBetter is how much larger a later resource's share must be to be named instead of an earlier one: leases and
// pods need every API server stopped at once, events do not.
const clearlyBetter = 1.5

// choose takes the resource to move: the first of the policy that passes, unless another one passes with a clearly
// larger share of the writes or of the quota.
func choose(cs []candidate) candidate {
	if len(cs) == 0 {
		return candidate{verdict: NotEnoughEvidence, reason: "no resource is to be judged"}
	}
	best := -1
	for i, c := range cs {
		if c.verdict != Split {
			continue
		}
		if best < 0 || c.weight() >= clearlyBetter*cs[best].weight() {
			best = i
		}
	}
	if best < 0 {
		return cs[0]
	}
	out := cs[best]
	if best > 0 && cs[0].resource != out.resource {
		first := cs[0]
		if first.writeShare != nil && out.writeShare != nil {
			out.reason += fmt.Sprintf("; %s would be the wrong split: %s of the writes", first.resource, percent(*first.writeShare))
		} else {
			out.reason += fmt.Sprintf("; moving %s would relieve less", first.resource)
		}
	}
	return out
}

// weight is the share that the candidate passes by: of the writes where load is the reason, else of the quota.
func (c candidate) weight() float64 {
	switch {
	case c.byLoad && c.writeShare != nil:
		return *c.writeShare
	case c.sizeShare != nil:
		return *c.sizeShare
	}
	return 0
}

// judgeStress compares the members' latencies with the objectives: any one above is stress.
func judgeStress(s Stress, p Policy) (RuleState, []Rule) {
	state := NotMet
	var rules []Rule
	for _, x := range []struct {
		name      string
		f         *Figure
		threshold time.Duration
		reason    string
	}{
		{"fsyncP99", s.FsyncP99Seconds, p.FsyncP99, "99th percentile of the write-ahead log's fsync"},
		{"commitP99", s.CommitP99Seconds, p.CommitP99, "99th percentile of the backend's commit"},
		{"compactionTime", s.CompactionSeconds, p.CompactionTime, "mean duration of a compaction"},
	} {
		r := Rule{Name: x.name, Threshold: x.threshold.Seconds(), Unit: "seconds", State: Unknown, Reason: x.reason}
		if x.f != nil {
			v := x.f.Value
			r.Value, r.Source, r.State = &v, x.f.Source, met(v > x.threshold.Seconds())
		} else {
			r.Reason += ": not measured"
		}
		rules = append(rules, r)
		switch {
		case r.State == Met:
			state = Met
		case r.State == Unknown && state == NotMet && x.name != "compactionTime":
			// A cluster that never compacted has no compaction to suffer from.
			state = Unknown
		}
	}
	return state, rules
}

func both(a, b RuleState) RuleState {
	switch {
	case a == NotMet || b == NotMet:
		return NotMet
	case a == Unknown || b == Unknown:
		return Unknown
	}
	return Met
}

func met(b bool) RuleState {
	if b {
		return Met
	}
	return NotMet
}

// immovable lists the resources with bytes or writes that no override reaches, largest first.
func immovable(e Evidence) []Immovable {
	out := []Immovable{}
	total := 0.0
	for _, r := range e.Resources {
		total += r.WritesPerSecond.Or(0)
	}
	for _, r := range e.Resources {
		if r.Movable || !strings.Contains(r.Resource, ".") {
			continue // keys of the API server itself and of other programs are no resources
		}
		x := Immovable{Resource: r.Resource}
		if r.Bytes != nil {
			x.Bytes = &r.Bytes.Value
		}
		if r.WritesPerSecond != nil && total > 0 {
			share := r.WritesPerSecond.Value / total
			x.WriteShare = &share
		}
		out = append(out, x)
	}
	return out
}

// dominant names a custom resource with more of the writes, or of the bytes, than any movable one.
func (p Proposal) dominant(e Evidence) string {
	for _, by := range []struct {
		what string
		of   func(ResourceEvidence) *Figure
	}{
		{"writes", func(r ResourceEvidence) *Figure { return r.WritesPerSecond }},
		{"bytes", func(r ResourceEvidence) *Figure { return r.Bytes }},
	} {
		var top ResourceEvidence
		for _, r := range e.Resources {
			if by.of(r).Or(0) > by.of(top).Or(0) {
				top = r
			}
		}
		if top.Resource != "" && slices.ContainsFunc(p.CannotMove, func(x Immovable) bool { return x.Resource == top.Resource }) {
			return fmt.Sprintf("most %s are of %s, which overrides cannot move", by.what, top.Resource)
		}
	}
	return ""
}

func costs() []string {
	return []string{
		"three more members to run: their memory, an fsync for each write on a disk of their own (on main's disk the split buys nothing), monitoring, upgrades",
		"certificates of main's CA for them: the API server has one CA, certificate and key for all its etcd clusters",
		"one more thing every API server needs: /livez and /readyz count the shard, so the probes must exclude it",
		"one backup is no longer one state of the cluster: what was moved is restored by itself, or not at all",
	}
}
