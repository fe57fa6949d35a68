package seed

import (
	"fmt"
	"time"
)

// Demo is the keyspace of a small cluster in trouble: finished Jobs without labels that nobody ever deleted, made by a
// nightly CronJob that is gone, by one that was re-created, by one that lives and by hand, between Jobs that must not
// be touched; Argo Workflows and events that pile up; and the ordinary rest. About 12,000 keys and 35 MiB.
func Demo(now time.Time) Options {
	return Options{
		Seed: 1, Now: now, Bookkeeping: true,
		Namespaces: []string{"team-a", "team-b", "shop", "monitoring"},
		Nodes:      40, LeaderLeases: 12,
		Deployments: 60, PodsPerReplica: 4, OldReplicaSets: 6,
		Services: 80, ServiceAccounts: 60,
		Secrets: 120, SecretBytes: 2 << 10, HelmReleases: 25, HelmRevisions: 8,
		ConfigMaps: 150, ConfigMapBytes: 3 << 10,
		Events: 2500, EventsNoLease: 300,
		CronJobs: []CronJobSet{
			{Namespace: "batch-prod", Stem: "nightly-report", Count: 1},
			{Namespace: "batch-prod", Stem: "nightly-backup", Count: 1, Recreated: true},
		},
		Jobs:              stuckJobs("batch-prod", 4000),
		Workflows:         []CustomSet{{Stem: "etl-daily", Count: 400, Bytes: 4 << 10}, {Stem: "etl-live", Count: 5, Phase: "Running"}},
		SparkApplications: []CustomSet{{Stem: "sales-rollup", Count: 200, Bytes: 2 << 10}},
		Custom: []CustomSet{
			{Group: "wgpolicyk8s.io", Version: "v1alpha2", Kind: "PolicyReport", Resource: "policyreports", Namespace: "monitoring", Stem: "scan", Count: 400, Bytes: 3 << 10},
		},
	}
}

// Stuck is the case that bulk cleaning is for: n finished label-less Jobs in one namespace, between Jobs of the same
// name stem that must be kept.
func Stuck(now time.Time, n int) Options {
	return Options{
		Seed: 1, Now: now, Namespaces: []string{"default"}, Nodes: 3,
		CronJobs: []CronJobSet{
			{Namespace: "batch-prod", Stem: "nightly-report", Count: 1},
			{Namespace: "batch-prod", Stem: "nightly-backup", Count: 1, Recreated: true},
		},
		Jobs: stuckJobs("batch-prod", n),
	}
}

// stuckJobs are n finished Jobs and a few of every kind that a cleaner must keep or ask about.
func stuckJobs(ns string, n int) []JobSet {
	const day = 24 * time.Hour
	ttl := int32(90 * 24 * 3600)
	manager := "example.com/queue"
	gone := n * 70 / 100
	return []JobSet{
		{Namespace: ns, Stem: "nightly-sync", Count: gone, Owner: OwnerCronJobGone, Youngest: 2 * day, Oldest: 60 * day},
		{Namespace: ns, Stem: "nightly-load", Count: n - gone, Owner: OwnerNone, Youngest: 2 * day, Oldest: 60 * day},
		{Namespace: ns, Stem: "nightly-sync", Count: 40, Owner: OwnerCronJobGone, State: JobFailed, Youngest: 2 * day, Oldest: 30 * day, Pods: 1},
		{Namespace: ns, Stem: "nightly-report", Count: 3, Owner: OwnerCronJob, Youngest: time.Hour, Oldest: 2 * day},
		{Namespace: ns, Stem: "nightly-backup", Count: 20, Owner: OwnerCronJobRecreated, Youngest: 2 * day, Oldest: 20 * day},
		{Namespace: ns, Stem: "nightly-load", Count: 10, Youngest: time.Minute, Oldest: 50 * time.Minute},
		{Namespace: ns, Stem: "nightly-load", Count: 5, State: JobRunning, Pods: 1, Youngest: time.Minute, Oldest: time.Hour},
		{Namespace: ns, Stem: "nightly-load", Count: 5, State: JobSuspended, Youngest: 3 * day, Oldest: 9 * day},
		{Namespace: ns, Stem: "nightly-load", Count: 3, State: JobOnTheWay, Youngest: time.Minute, Oldest: time.Hour},
		{Namespace: ns, Stem: "nightly-load", Count: 3, State: JobUncounted, Youngest: 2 * day, Oldest: 3 * day},
		{Namespace: ns, Stem: "nightly-load", Count: 4, Finalizers: []string{"example.com/archive"}, Youngest: 2 * day, Oldest: 9 * day},
		{Namespace: ns, Stem: "nightly-load", Count: 2, Deleting: true, Youngest: 2 * day, Oldest: 9 * day},
		{Namespace: ns, Stem: "nightly-load", Count: 3, TTL: &ttl, Youngest: 2 * day, Oldest: 9 * day},
		{Namespace: ns, Stem: "nightly-load", Count: 2, ManagedBy: &manager, Youngest: 2 * day, Oldest: 9 * day},
		{Namespace: ns, Stem: "nightly-flow", Count: 6, Owner: OwnerUnknownKind, Youngest: 2 * day, Oldest: 9 * day},
	}
}

// Large is n objects in about the proportions of a busy cluster, for benchmarks: events and pods first, then Jobs,
// secrets and custom resources.
func Large(now time.Time, n int) Options {
	part := func(permille int) int { return n * permille / 1000 }
	namespaces := make([]string, 50)
	for i := range namespaces {
		namespaces[i] = fmt.Sprintf("team-%02d", i)
	}
	return Options{
		Seed: 1, Now: now, Bookkeeping: true, Namespaces: namespaces,
		Nodes: max(1, part(5)), LeaderLeases: 20,
		Deployments: part(20), PodsPerReplica: 9, OldReplicaSets: 2,
		Services: part(10), Secrets: part(50), ConfigMaps: part(50),
		Events: part(370), EventsNoLease: part(10),
		Jobs: []JobSet{{Namespace: "team-00", Stem: "nightly", Count: part(150), Owner: OwnerCronJobGone}},
		Custom: []CustomSet{
			{Group: "wgpolicyk8s.io", Version: "v1alpha2", Kind: "PolicyReport", Resource: "policyreports", Namespace: "team-01", Stem: "scan", Count: part(70)},
		},
	}
}
