package report

import (
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/splitter"
)

func TestSplitPage(t *testing.T) {
	size := func(n int64) *int64 { return &n }
	share := 0.4
	p := splitter.Proposal{
		Verdict: splitter.Split, Resources: []string{"events"}, Judged: "events", Reason: "<script>reason</script>",
		Rules:  []splitter.Rule{{Name: "writeShare", Resource: "events", Value: &share, Threshold: 0.3, Unit: "share", State: splitter.Met}},
		Before: splitter.Prediction{DBSizeBytes: size(3 << 20)}, Main: splitter.Prediction{DBSizeBytes: size(2 << 20)}, Shard: splitter.Prediction{DBSizeBytes: size(1 << 20)},
		CannotMove: []splitter.Immovable{{Resource: "widgets.example.com"}},
	}
	var b strings.Builder
	if err := Write(&b, SplitPage(p)); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{"split events", "&lt;script&gt;reason", "40.0 %", "30.0 %", "Database afterwards", "66.7 %", "widgets.example.com"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, "<script") {
		t.Error("text is not escaped")
	}
	b.Reset()
	if err := Write(&b, SplitPage(splitter.Proposal{Verdict: splitter.NotEnoughEvidence})); err != nil || !strings.Contains(b.String(), "not enough evidence") {
		t.Errorf("without evidence: %v", err)
	}
}
