package splitter

import (
	"math"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

func TestScorecard_Writes(t *testing.T) {
	before := map[string]Families{"a": families(t, "etcd_mvcc_put_total 100\netcd_mvcc_delete_total 10\n"), "b": families(t, "etcd_mvcc_put_total 90\n")}
	after := map[string]Families{"a": families(t, "etcd_mvcc_put_total 160\netcd_mvcc_delete_total 20\n"), "b": families(t, "etcd_mvcc_put_total 100\n"), "new": families(t, "etcd_mvcc_put_total 1e6\n")}
	if got := writesPerSecond(before, after, 10); got == nil || *got != 7 {
		t.Errorf("got %v, want 7 writes/s", got)
	}
	restarted := map[string]Families{"a": families(t, "etcd_mvcc_put_total 3\n")}
	if got := writesPerSecond(before, restarted, 10); got != nil {
		t.Errorf("a member that restarted: got %v, want nil", *got)
	}
	if got := writesPerSecond(nil, nil, 10); got != nil {
		t.Errorf("no metrics: got %v, want nil", *got)
	}
}

func TestScorecard_Compaction(t *testing.T) {
	page := func(sum, count string) map[string]Families {
		return map[string]Families{"a": families(t, "# TYPE "+compactionMetric+" histogram\n"+compactionMetric+"_bucket{le=\"+Inf\"} "+count+"\n"+
			compactionMetric+"_sum "+sum+"\n"+compactionMetric+"_count "+count+"\n")}
	}
	if got := compactionSeconds(page("9000", "3"), page("10500", "4")); got == nil || math.Abs(*got-1.5) > 1e-9 {
		t.Errorf("got %v, want the one in between, 1.5 s", got)
	}
	if got := compactionSeconds(page("9000", "3"), page("9000", "3")); got != nil {
		t.Errorf("none in between: got %v, want nil", *got)
	}
	if got := compactionSeconds(nil, page("9000", "3")); got == nil || *got != 3 {
		t.Errorf("since the start: got %v, want 3 s", got)
	}
}

func TestScorecard_Deviation(t *testing.T) {
	predicted, size := 100.0, int64(1000)
	v := &verifier{o: VerifyOptions{Plan: &Plan{Main: Prediction{RevisionsPerSecond: &predicted, DBSizeBytes: &size}}}}
	at := moment{main: cluster.View{Members: []cluster.Member{{Reachable: true, DBSize: 1100}}}}
	later := at
	later.at, later.mainRevision = at.at.Add(10e9), 1500
	v.score(at, later)
	for _, s := range v.out.Scorecard {
		switch s.Name {
		case "mainDatabase":
			if s.Deviation == nil || math.Abs(*s.Deviation-0.1) > 1e-9 {
				t.Errorf("got %+v, want +10 %%", s)
			}
		case "mainRevisions":
			if s.Deviation == nil || math.Abs(*s.Deviation-0.5) > 1e-9 {
				t.Errorf("got %+v, want +50 %%", s)
			}
		default:
			if s.Deviation != nil {
				t.Errorf("got %+v, want no deviation of what is not known", s)
			}
		}
	}
}
