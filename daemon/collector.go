package daemon

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// watchCollector exports the present view. Where there is none it exports nothing: the numbers of a member that does
// not answer end with it.
type watchCollector struct{ w *Watch }

func memberDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("etcdkeeper_member_"+name, help, append([]string{"member"}, labels...), nil)
}

var (
	descReachable = memberDesc("reachable", "1 where the member answered the last look at it, else 0.")
	descSize      = memberDesc("db_size_bytes", "Size of the member's database file: what its quota counts.")
	descInUse     = memberDesc("db_in_use_bytes", "Part of the database file that is in use: what a defragmentation leaves.")
	descFree      = memberDesc("db_free_bytes", "Part of the database file that a defragmentation gives back.")
	descQuota     = memberDesc("quota_bytes", "The member's quota. Absent where it is not known.", "source")
	descLeader    = memberDesc("leader", "1 where the member is the raft leader, else 0.")
	descLearner   = memberDesc("learner", "1 where the member is a learner, else 0.")
	descAlarm     = memberDesc("alarm", "1 for every alarm that is raised on the member.", "alarm")
	descRevision  = memberDesc("revision", "Revision of the member's keyspace.")
	descTerm      = memberDesc("raft_term", "Raft term of the member.")
	descApplied   = memberDesc("raft_applied_index", "Raft index up to which the member has applied.")
	descInFlight  = memberDesc("defrag_in_flight", "Defragmentations that go on in the member. Absent where its metrics cannot be read, which closes the gate.")
	descForecast  = memberDesc("quota_exhaustion_seconds", "Forecast of the seconds until the member's file reaches its quota. Absent where nothing points to it.")
	descInfo      = memberDesc("info", "Always 1, with the member's id and version.", "id", "version")
	descMembers   = prometheus.NewDesc("etcdkeeper_cluster_members", "Members of the cluster by kind: voter or learner.", []string{"kind"}, nil)
	descHasLeader = prometheus.NewDesc("etcdkeeper_cluster_has_leader", "1 where the members that answer agree on a leader, else 0.", nil, nil)
)

var watchDescs = []*prometheus.Desc{descReachable, descSize, descInUse, descFree, descQuota, descLeader, descLearner, descAlarm,
	descRevision, descTerm, descApplied, descInFlight, descForecast, descInfo, descMembers, descHasLeader}

// Describe sends all that may be exported.
func (c *watchCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range watchDescs {
		ch <- d
	}
}

// Collect exports the present view.
func (c *watchCollector) Collect(ch chan<- prometheus.Metric) {
	v, ok := c.w.Latest()
	if !ok {
		return
	}
	emit := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	_, hasLeader := v.Leader()
	emit(descHasLeader, truth(hasLeader))
	voters := len(v.Voters())
	emit(descMembers, float64(voters), "voter")
	emit(descMembers, float64(len(v.Members)-voters), "learner")
	names := memberNames(v)
	for i, m := range v.Members {
		name := names[i]
		emit(descReachable, truth(m.Reachable), name)
		emit(descLearner, truth(m.Learner), name)
		for _, a := range slices.Compact(slices.Sorted(slices.Values(m.Alarms))) {
			emit(descAlarm, 1, name, a)
		}
		if m.DefragInFlight != nil {
			emit(descInFlight, float64(*m.DefragInFlight), name)
		}
		if !m.Reachable {
			continue
		}
		emit(descInfo, 1, name, m.ID.String(), m.Version)
		emit(descSize, float64(m.DBSize), name)
		emit(descInUse, float64(m.DBSizeInUse), name)
		emit(descFree, float64(m.Free()), name)
		emit(descLeader, truth(m.Leader), name)
		emit(descRevision, float64(m.Revision), name)
		emit(descTerm, float64(m.RaftTerm), name)
		emit(descApplied, float64(m.RaftAppliedIndex), name)
		if m.Quota != nil {
			emit(descQuota, float64(*m.Quota), name, string(m.QuotaSource))
		}
		if f, ok := c.w.MemberForecast(m.ID); ok && f.QuotaExhaustionSeconds != nil {
			emit(descForecast, *f.QuotaExhaustionSeconds, name)
		}
	}
}

// memberNames are the members' labels: etcd allows two members of one name, which then have their id behind it.
func memberNames(v cluster.View) []string {
	count := map[string]int{}
	for _, m := range v.Members {
		count[m.String()]++
	}
	names := make([]string, len(v.Members))
	for i, m := range v.Members {
		names[i] = m.String()
		if count[names[i]] > 1 {
			names[i] += "-" + m.ID.String()
		}
	}
	return names
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
