package defrag

import (
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
)

// Outcome is how a run ended.
type Outcome string

// The outcomes.
const (
	Planned Outcome = "planned" // a dry run that found work
	Done    Outcome = "done"
	Nothing Outcome = "nothing" // no member has to be defragmented
	Refused Outcome = "refused" // a gate was closed and nothing was changed
	Partial Outcome = "partial" // stopped after something was changed
	Failed  Outcome = "failed"
)

// Actions on a member.
const (
	Defragment = "defragment"
	Skip       = "skip"
)

// What was, or would be, done about a member's leadership.
const (
	LeaderNo      = "no" // not the leader
	LeaderInPlace = "in-place"
	LeaderMoved   = "moved" // leadership was moved away first
)

// Triggers of a run.
const (
	TriggerManual    = "manual"
	TriggerRule      = "rule"
	TriggerEmergency = "emergency"
)

// MemberReport is what a run did, or would do, with one member. Nil: not known, or not done.
type MemberReport struct {
	ID               cluster.ID `json:"id"`
	Name             string     `json:"name"`
	Endpoint         string     `json:"endpoint"`
	Action           string     `json:"action"`
	Reason           string     `json:"reason"`
	Leader           string     `json:"leader"`
	BeforeBytes      *int64     `json:"beforeBytes"`
	InUseBytes       *int64     `json:"inUseBytes"`
	ReclaimableBytes *int64     `json:"reclaimableBytes"`
	AfterBytes       *int64     `json:"afterBytes"`
	Seconds          *float64   `json:"seconds"`
	PredictedSeconds *float64   `json:"predictedSeconds"`
	Done             bool       `json:"done"`

	// Drain tells whether clients are, or would be, turned away meanwhile, DrainReason why or why not. What became of it:
	// for how long, how many of their connections were turned away, and how many connections there were again afterwards.
	Drain            bool     `json:"drain"`
	DrainReason      string   `json:"drainReason"`
	DrainedSeconds   *float64 `json:"drainedSeconds"`
	ConnectionsMoved *int     `json:"connectionsMoved"`
	ConnectionsBack  *int     `json:"connectionsBack"`
}

// ClientReport is what the keeper's own client of all members noticed of a run.
type ClientReport struct {
	LongestSeconds float64 `json:"longestSeconds"` // of one read
	Reads          int     `json:"reads"`
	Failed         int     `json:"failed"`
}

// HashReport is the comparison of the members' keyspaces at the end of a run.
type HashReport struct {
	Result         string  `json:"result"` // equal, different, unknown or off
	Reason         string  `json:"reason"`
	Revision       int64   `json:"revision"`
	LongestSeconds float64 `json:"longestSeconds"` // the longest call: its member's clients waited for as long
}

// Report is a plan and what became of it. A run that fails returns the report of what was done until then.
type Report struct {
	DryRun           bool              `json:"dryRun"`
	Outcome          Outcome           `json:"outcome"`
	Reason           string            `json:"reason"`
	Trigger          string            `json:"trigger"`
	Started          time.Time         `json:"started"`
	By               string            `json:"by"`
	LeaderMoves      int               `json:"leaderMoves"`
	ReclaimedBytes   int64             `json:"reclaimedBytes"`
	ReclaimableBytes int64             `json:"reclaimableBytes"`
	Seconds          float64           `json:"seconds"`
	PredictedSeconds float64           `json:"predictedSeconds"` // the longest wait of a client of one member
	PredictionBasis  string            `json:"predictionBasis"`
	Refusals         []cluster.Refusal `json:"refusals"`
	Notes            []string          `json:"notes"`
	Compacted        *int64            `json:"compactedRevision"`
	Disarmed         bool              `json:"disarmed"`
	Snapshot         string            `json:"snapshot"`
	Hash             *HashReport       `json:"hash"`
	Clients          *ClientReport     `json:"clients"` // nil: not probed
	Failure          bool              `json:"failure"` // it ended by a failure, not by an order to stop
	Members          []MemberReport    `json:"members"`
}

func (r *Report) note(s string) { r.Notes = append(r.Notes, s) }

// changed tells whether the run changed anything in the cluster.
func (r *Report) changed() bool {
	for _, m := range r.Members {
		if m.Done {
			return true
		}
	}
	return r.LeaderMoves > 0 || r.Compacted != nil || r.Disarmed
}
