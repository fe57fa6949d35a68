package defrag

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

const (
	// DisarmBelow is the share of its quota that every member's file must be below before the NOSPACE alarm is
	// disarmed: closer to it the next writes would raise it again.
	DisarmBelow = 0.9
	// worthwhile is what an emergency run must be able to give back on a member.
	worthwhile = 32 << 20
	// longStall is where a kubelet's liveness probe of etcd gives up as kubeadm sets it: 8 failures, 10 s apart.
	// Members were killed so in the middle of a defragmentation (etcd-io/etcd#16858).
	longStall = 80.0
	// maxFruitlessBackoff bounds the doubling of the cooldown.
	maxFruitlessBackoff = 24 * time.Hour
)

// Situation is what a decision needs to know beyond the view, the configuration and the history.
type Situation struct {
	Manual     bool // asked for by a person: windows, cooldowns and the degraded state do not count
	AllowSmall bool
	InWindow   bool                   // ignored for a manual run
	NextWindow time.Time              // zero: never
	Forecast   map[cluster.ID]float64 // seconds until the quota is reached; missing: not known or never
	Leases     *cluster.Leases        // nil: not known
	DiskFree   map[cluster.ID]int64   // free bytes on the volume of the members that can be seen
	Keepers    []cluster.Keeper       // what the keepers tell of themselves, of their members' clients above all
}

// Plan is a decided run: a report of what has not been done yet, and the members to take in order.
type Plan struct {
	Report
	Order []cluster.ID // the leader, if it is among them, comes last

	// DisarmOnly: no member has to be defragmented, but a NOSPACE alarm is left over, from a run that was killed before
	// its end for example, and nothing speaks against taking it away.
	DisarmOnly bool

	notDrained []string
}

func (p *Plan) member(id cluster.ID) *MemberReport {
	for i := range p.Members {
		if p.Members[i].ID == id {
			return &p.Members[i]
		}
	}
	return nil
}

// Decide says what a run would do and why: for every member, whether it is defragmented, and for the run, which gates
// are closed. It does no I/O. The configuration must be valid.
func Decide(v cluster.View, c Config, h History, s Situation, now time.Time) Plan {
	d := decider{v: v, c: c, h: h, s: s, now: now}
	d.plan.Trigger = TriggerRule
	if s.Manual {
		d.plan.Trigger = TriggerManual
	}
	d.plan.Refusals, d.plan.Notes = []cluster.Refusal{}, []string{}
	rule, err := ParseRule(c.Rule)
	if err != nil {
		d.plan.Outcome, d.plan.Reason = Failed, err.Error()
		return d.plan
	}
	d.rule = rule
	d.nospace = slices.ContainsFunc(v.Members, func(m cluster.Member) bool { return slices.Contains(m.Alarms, "NOSPACE") })
	d.emergency = d.nospace && c.EmergencyOnAlarm
	for _, m := range v.Members {
		d.plan.Members = append(d.plan.Members, d.member(m))
	}
	d.order()
	d.conclude()
	return d.plan
}

type decider struct {
	v    cluster.View
	c    Config
	h    History
	s    Situation
	now  time.Time
	rule Rule

	nospace, emergency bool
	plan               Plan
}

// facts are what the rule sees of m.
func (d *decider) facts(m cluster.Member, predicted float64) Facts {
	f := Facts{
		DBSize: float64(m.DBSize), DBSizeInUse: float64(m.DBSizeInUse), DBSizeFree: float64(m.Free()),
		DBQuota: unknown(), DBQuotaUsage: unknown(), PredictedStallSeconds: predicted,
		SecondsSinceDefrag: math.Inf(1), QuotaExhaustionSeconds: math.Inf(1), IsLeader: m.Leader,
	}
	if m.DBSize > 0 {
		f.Fragmentation = f.DBSizeFree / f.DBSize
	}
	if m.Quota != nil {
		f.DBQuota = float64(*m.Quota)
		f.DBQuotaUsage = f.DBSize / f.DBQuota
	}
	if last, ok := d.h.Last(m.ID); ok {
		f.SecondsSinceDefrag = max(0, d.now.Sub(last.At).Seconds())
	}
	if t, ok := d.s.Forecast[m.ID]; ok {
		f.QuotaExhaustionSeconds = t
	}
	return f
}

func (d *decider) member(m cluster.Member) MemberReport {
	r := MemberReport{ID: m.ID, Name: m.Name, Endpoint: m.Endpoint, Action: Skip, Leader: LeaderNo}
	if !m.Reachable {
		r.Reason = "it does not answer: " + m.Error
		if !m.Started {
			r.Reason = m.Error
		}
		return r
	}
	size, inUse, free := m.DBSize, m.DBSizeInUse, m.Free()
	predicted, basis := d.h.Predict(m.ID, inUse)
	r.BeforeBytes, r.InUseBytes, r.ReclaimableBytes, r.PredictedSeconds = &size, &inUse, &free, &predicted
	if m.Leader {
		r.Leader = LeaderInPlace
	}
	if m.Learner {
		r.Reason = "a learner: etcd does not defragment it until it is promoted"
		return r
	}
	f := d.facts(m, predicted)
	match, err := d.rule.Match(f)
	if err != nil {
		r.Reason = err.Error()
		return r
	}
	state := fmt.Sprintf("%s of %s free (%.0f%%)", human(free), human(size), 100*f.Fragmentation)
	if m.Quota != nil {
		state += fmt.Sprintf(", %.0f%% of the quota taken", 100*f.DBQuotaUsage)
	} else {
		state += ", quota not known"
	}
	urgent := d.c.EmergencyForecast > 0 && f.QuotaExhaustionSeconds < d.c.EmergencyForecast.Seconds() && free >= worthwhile
	pressed := d.nospace && m.Quota != nil && float64(m.DBSize) >= DisarmBelow*float64(*m.Quota)
	switch {
	case pressed:
		r.Reason = state + ": the NOSPACE alarm is raised"
	case urgent:
		r.Reason = fmt.Sprintf("%s: the quota is forecast to be reached in %s", state, time.Duration(f.QuotaExhaustionSeconds*float64(time.Second)).Round(time.Minute))
		d.emergency = true
	case match:
		r.Reason = state + ": the rule matches"
	default:
		r.Reason = state + ": the rule does not match"
		return r
	}
	if why, ok := d.cooling(m, pressed); ok {
		r.Reason = state + ": " + why
		return r
	}
	r.Action = Defragment
	r.Reason += fmt.Sprintf("; about %.1f s (%s)", predicted, basis)
	return r
}

// cooling tells why the daemon leaves a member alone that the rule matches.
func (d *decider) cooling(m cluster.Member, pressed bool) (string, bool) {
	last, ok := d.h.Last(m.ID)
	if d.s.Manual || !ok {
		return "", false
	}
	wait := d.c.Cooldown
	why := "it was defragmented"
	if last.Fruitless > 0 {
		for range min(last.Fruitless, 10) {
			wait *= 2
		}
		wait = min(wait, max(maxFruitlessBackoff, d.c.Cooldown))
		why = fmt.Sprintf("its last %d defragmentations gave little back, the last one", last.Fruitless)
	} else if pressed {
		return "", false
	}
	// A clock that went back makes the last run look like one to come: it counts as just done.
	since := max(0, d.now.Sub(last.At))
	if since >= wait {
		return "", false
	}
	return fmt.Sprintf("%s %s ago, it is left alone for %s", why, since.Round(time.Second), (wait - since).Round(time.Second)), true
}

// order puts followers before the leader and the larger gain before the smaller one.
func (d *decider) order() {
	var todo []MemberReport
	for _, m := range d.plan.Members {
		if m.Action == Defragment {
			todo = append(todo, m)
		}
	}
	slices.SortStableFunc(todo, func(a, b MemberReport) int {
		if (a.Leader != LeaderNo) != (b.Leader != LeaderNo) {
			if a.Leader == LeaderNo {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(*b.ReclaimableBytes, *a.ReclaimableBytes), cmp.Compare(a.ID, b.ID))
	})
	for _, m := range todo {
		d.plan.Order = append(d.plan.Order, m.ID)
		d.plan.ReclaimableBytes += *m.ReclaimableBytes
		if *m.PredictedSeconds >= d.plan.PredictedSeconds {
			d.plan.PredictedSeconds = *m.PredictedSeconds
			_, d.plan.PredictionBasis = d.h.Predict(m.ID, *m.InUseBytes)
		}
	}
	// In the report too: members in the order in which they are taken, then those that are left alone.
	slices.SortStableFunc(d.plan.Members, func(a, b MemberReport) int {
		return cmp.Compare(d.rank(a.ID), d.rank(b.ID))
	})
}

func (d *decider) rank(id cluster.ID) int {
	if i := slices.Index(d.plan.Order, id); i >= 0 {
		return i
	}
	return len(d.plan.Order)
}

func (d *decider) conclude() {
	p := &d.plan
	if len(p.Order) == 0 {
		p.Outcome = Nothing
		p.Reason = "no member has to be defragmented"
		if !d.nospace {
			return
		}
		if why := alarmStays(d.v); why != "" {
			p.Reason += ", and the NOSPACE alarm has to stay: " + why
			return
		}
		p.DisarmOnly = true
	}
	if d.emergency && !d.s.Manual {
		p.Trigger = TriggerEmergency
	}
	p.Refusals = append(p.Refusals, cluster.Check(d.v)...)
	refuse := func(gate, format string, args ...any) {
		p.Refusals = append(p.Refusals, cluster.Refusal{Gate: gate, Reason: fmt.Sprintf(format, args...)})
	}
	if n := len(d.v.Voters()); n < 3 && !p.DisarmOnly && !d.s.AllowSmall && !d.c.AllowSmall {
		refuse(cluster.GateQuorum, "%d voters: with fewer than three every client waits while one is defragmented; allow it with --allow-small (defrag.allowSmall)", n)
	}
	if !d.s.Manual {
		d.automatic(refuse)
	}
	d.disk()
	d.leader()
	d.drain()
	if d.nospace && !p.DisarmOnly && tight(d.v) {
		if d.c.CompactOnNoSpace {
			p.note("history is compacted first, behind a margin: defragmenting alone would leave a member too close to its quota")
		} else {
			p.note("what is in use is too close to the quota for defragmenting to help, and compacting is switched off (defrag.compactOnNoSpace)")
		}
	}
	if d.c.HashCheck && !p.DisarmOnly {
		var inUse int64
		for _, m := range d.v.Voters() {
			inUse = max(inUse, m.DBSizeInUse)
		}
		p.note(fmt.Sprintf("comparing the members' hashes makes each wait for about %.1f s", HashSecondsPerGiB*float64(inUse)/(1<<30)))
	}
	if p.PredictedSeconds > longStall {
		p.note(fmt.Sprintf("a member will not answer for about %.0f s: a liveness probe that gives up sooner kills it (kubeadm's allows %.0f s)", p.PredictedSeconds, longStall))
	}
	if q := quotas(d.v); len(q) > 1 {
		p.note("the members have different quotas: " + strings.Join(q, ", "))
	}
	switch {
	case len(p.Refusals) > 0:
		p.Outcome = Refused
		p.Reason = p.Refusals[0].String()
		if n := len(p.Refusals) - 1; n > 0 {
			p.Reason += fmt.Sprintf(" (and %d more)", n)
		}
	case p.DisarmOnly:
		p.Outcome = Planned
		p.Reason = fmt.Sprintf("no member has to be defragmented, and the NOSPACE alarm is to be disarmed: every member is below %.0f%% of its quota", 100*DisarmBelow)
	default:
		p.Outcome = Planned
		p.Reason = fmt.Sprintf("%d of %d members are to be defragmented, %s can be given back", len(p.Order), len(d.v.Members), human(p.ReclaimableBytes))
	}
}

// automatic are the reasons for which the daemon starts no run, while a person may.
func (d *decider) automatic(refuse func(gate, format string, args ...any)) {
	if d.h.Problem != "" {
		refuse("history", "the last runs cannot be read: %s", d.h.Problem)
	}
	if n, last := d.h.Failures(); n >= DegradedAfter && max(0, d.now.Sub(last)) < d.c.DegradedBackoff {
		refuse("degraded", "the last %d runs failed, the next is tried %s: see 'etcdkeeper status --history', then 'etcdkeeper resume'",
			n, last.Add(d.c.DegradedBackoff).UTC().Format(time.RFC3339))
	}
	if !d.s.InWindow && !d.emergency {
		if d.s.NextWindow.IsZero() {
			refuse(cluster.GateWindow, "outside the maintenance windows, which never open again")
		} else {
			refuse(cluster.GateWindow, "outside the maintenance windows, the next opens at %s", d.s.NextWindow.Format(time.RFC3339))
		}
	}
}

// disk checks the room for the temporary file of the members whose volume can be seen.
func (d *decider) disk() {
	seen := 0
	for _, id := range d.plan.Order {
		m := d.plan.member(id)
		free, ok := d.s.DiskFree[id]
		if !ok {
			continue
		}
		seen++
		if closed := noRoom(m.Name, free, *m.InUseBytes); closed != nil {
			d.plan.Refusals = append(d.plan.Refusals, *closed)
		}
	}
	if seen < len(d.plan.Order) {
		d.plan.note(fmt.Sprintf("free disk space was checked on %d of %d members: a keeper sees only the volume given by --member-data-dir", seen, len(d.plan.Order)))
	}
}

// leader decides whether leadership is moved first: moving it can make puts wait for seconds, so it is done only
// where leases would be lost in place, since nothing renews them while the leader hangs.
func (d *decider) leader() {
	if len(d.plan.Order) == 0 {
		return
	}
	m := d.plan.member(d.plan.Order[len(d.plan.Order)-1])
	if m.Leader == LeaderNo {
		return
	}
	voters := 0
	for _, v := range d.v.Voters() {
		if v.Reachable {
			voters++
		}
	}
	lost := d.s.Leases != nil && d.s.Leases.Shortest > 0 && d.s.Leases.Shortest.Seconds() < 2**m.PredictedSeconds
	switch {
	case voters < 2:
	case d.c.MoveLeader == MoveLeaderAlways:
		m.Leader = LeaderMoved
		m.Reason += "; leadership is moved first, as configured"
	case d.c.MoveLeader == MoveLeaderAuto && lost:
		m.Leader = LeaderMoved
		m.Reason += fmt.Sprintf("; leadership is moved first: leases of %s would not live through twice %.1f s without renewal", d.s.Leases.Shortest, *m.PredictedSeconds)
	case d.c.MoveLeader == MoveLeaderAuto && d.s.Leases == nil:
		m.Reason += "; in place: the leases could not be looked at"
	case d.c.MoveLeader == MoveLeaderAuto:
		m.Reason += "; in place: no lease seen is short enough to be lost"
	}
}

// quotas are the different quotas of the members, in words.
func quotas(v cluster.View) []string {
	seen := map[int64]bool{}
	var out []string
	for _, m := range v.Members {
		if m.Quota != nil && !seen[*m.Quota] {
			seen[*m.Quota] = true
			out = append(out, fmt.Sprintf("%s %s", m, human(*m.Quota)))
		}
	}
	return out
}

func human(n int64) string { return bytesize.Bytes(n).Human() }
