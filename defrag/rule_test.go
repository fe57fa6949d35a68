package defrag

import (
	"math"
	"strings"
	"testing"
)

const mib = 1 << 20

func facts(size, inUse, quota float64) Facts {
	return Facts{DBSize: size, DBSizeInUse: inUse, DBSizeFree: size - inUse, DBQuota: quota, DBQuotaUsage: size / quota,
		Fragmentation: (size - inUse) / size, SecondsSinceDefrag: math.Inf(1), QuotaExhaustionSeconds: math.Inf(1), PredictedStallSeconds: 2}
}

func TestRule_Match(t *testing.T) {
	gib := 1024.0 * mib
	tests := []struct {
		rule  string
		facts Facts
		want  bool
	}{
		{"true", facts(1, 1, 1), true},
		{"false", facts(1, 1, 1), false},
		// The rules that users of etcd-defrag write.
		{"dbQuotaUsage > 0.8 || dbSizeFree > 200*1024*1024", facts(gib, 0.9*gib, 8*gib), false},
		{"dbQuotaUsage > 0.8 || dbSizeFree > 200*1024*1024", facts(gib, 0.7*gib, 8*gib), true},
		{"dbQuotaUsage > 0.8 || dbSizeFree > 200*1024*1024", facts(7*gib, 7*gib, 8*gib), true},
		{"dbSize > dbQuota*80/100", facts(7*gib, 7*gib, 8*gib), true},
		{"dbSize > dbQuota*80/100 && dbSize - dbSizeInUse > 200*1024*1024", facts(7*gib, 7*gib, 8*gib), false},
		{"dbSize - dbSizeInUse > 200*1024*1024", facts(gib, 0.5*gib, 8*gib), true},
		{"dbSizeFree > dbSize*0.45", facts(gib, 0.5*gib, 8*gib), true},
		{"dbSize/dbQuota > 0.5", facts(5*gib, gib, 8*gib), true}, // division is a float
		{"dbSizeInUse*100/dbSize < 50", facts(gib, 0.4*gib, 8*gib), true},
		{"isLeader", Facts{IsLeader: true}, true},
		{"!isLeader and fragmentation > 0.3", facts(gib, 0.5*gib, gib), true},
		{"max(dbSizeFree, 1) > 2", facts(gib, 0.5*gib, gib), true},
		{"secondsSinceDefrag > 3600", facts(1, 1, 1), true},
		{"quotaExhaustionSeconds < 86400", facts(1, 1, 1), false},
		{"predictedStallSeconds < 5", facts(1, 1, 1), true},
		// A quota that is not known never makes a rule match.
		{"dbQuotaUsage > 0.8", facts(gib, gib, math.NaN()), false},
		{"dbSize > dbQuota*80/100", facts(gib, gib, math.NaN()), false},
		{DefaultRule, facts(gib, 0.9*gib, math.NaN()), false},
		// The default: 45 % and 90 MiB, or quota pressure.
		{DefaultRule, facts(200*mib, 110*mib, 8*gib), true},
		{DefaultRule, facts(200*mib, 111*mib, 8*gib), false},
		{DefaultRule, facts(150*mib, 61*mib, 8*gib), false}, // 89 MiB
		{DefaultRule, facts(100*mib, 60*mib, 120*mib), true},
		{DefaultRule, facts(100*mib, 69*mib, 120*mib), false}, // 31 MiB
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			r, err := ParseRule(tt.rule)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Match(tt.facts)
			if err != nil || got != tt.want {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// The default acts before etcd's own alert does: in use below half of the file while more than 100 MiB are in use.
func TestDefaultRule_BeforeMixinAlert(t *testing.T) {
	r, err := ParseRule(DefaultRule)
	if err != nil {
		t.Fatal(err)
	}
	for inUse := 101.0 * mib; inUse < 8*1024*mib; inUse *= 1.1 {
		if ok, _ := r.Match(facts(inUse/0.4999, inUse, math.NaN())); !ok {
			t.Fatalf("the alert fires at %.0f MiB in use, the rule does not", inUse/mib)
		}
	}
}

func TestParseRule_Refuses(t *testing.T) {
	tests := map[string]struct{ rule, want string }{
		"empty":       {" ", "true"},
		"unknown":     {"dbsize > 1", "dbSizeInUse"},
		"parse":       {"dbSize >", "unexpected token"},
		"number":      {"dbSize + 1", "bool"},
		"string":      {`"yes"`, "bool"},
		"long":        {strings.Repeat("true && ", 600) + "true", "characters"},
		"nodes":       {strings.Repeat("1<2&&", 400) + "true", "nodes"},
		"endless":     {"all(1..1000000000, # > 0)", "not allowed"},
		"range":       {"len(1..10000000) > 0", ""},
		"list":        {"dbSize in [1,2]", "a list"},
		"comparison":  {`dbSize > "1GiB"`, "mismatched"},
		"assignment":  {"let x = dbSize; x > 1", "not allowed"},
		"call":        {"now() > 1", ""},
		"member":      {"dbSize.foo > 1", ""},
		"environment": {"$env != nil", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseRule(tt.rule)
			if err == nil {
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want it to contain %q", err, tt.want)
			}
		})
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{DefaultRule, "true", "dbSize > 1", "all(1..9, # > 0)", "isLeader ? true : false"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRule(s); err == nil {
			_, _ = r.Match(facts(1, 1, 1))
		}
	})
}
