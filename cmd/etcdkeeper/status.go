package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/cluster/forecast"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/daemon"
	"github.com/etcdkeeper/etcdkeeper/defrag"
)

type statusMember struct {
	ID               cluster.ID          `json:"id"`
	Name             string              `json:"name"`
	Endpoint         string              `json:"endpoint"`
	Version          string              `json:"version"`
	Leader           bool                `json:"leader"`
	Learner          bool                `json:"learner"`
	Reachable        bool                `json:"reachable"`
	Error            string              `json:"error,omitempty"`
	DBSizeBytes      *int64              `json:"dbSizeBytes"`
	DBSizeInUseBytes *int64              `json:"dbSizeInUseBytes"`
	DBSizeFreeBytes  *int64              `json:"dbSizeFreeBytes"`
	QuotaBytes       *int64              `json:"quotaBytes"`
	QuotaSource      cluster.QuotaSource `json:"quotaSource"`
	RaftTerm         *uint64             `json:"raftTerm"`
	RaftAppliedIndex *uint64             `json:"raftAppliedIndex"`
	Features         []string            `json:"features"`
	Alarms           []string            `json:"alarms"`
	DefragInFlight   *int64              `json:"defragInFlight"`
}

type statusVerdict struct {
	Action                string            `json:"action"`
	Reason                string            `json:"reason"`
	ReclaimableBytes      int64             `json:"reclaimableBytes"`
	PredictedStallSeconds *float64          `json:"predictedStallSeconds"`
	Refusals              []cluster.Refusal `json:"refusals"`
}

type statusReport struct {
	ClusterID cluster.ID        `json:"clusterId"`
	Leader    *cluster.ID       `json:"leader"`
	Taken     time.Time         `json:"taken"`
	Members   []statusMember    `json:"members"`
	Verdict   statusVerdict     `json:"verdict"`
	Forecast  forecast.Forecast `json:"forecast"`
	Paused    *cluster.Pause    `json:"paused"`
	Keepers   []cluster.Keeper  `json:"keepers"`
	Notes     []string          `json:"notes"`
	Runs      []defrag.Report   `json:"runs,omitempty"`
}

func newStatusCmd(a *app) *cobra.Command {
	var history bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show members, sizes, quota, alarms, and what a run would do",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := a.connect(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			v, err := c.View(ctx)
			if err != nil {
				return err
			}
			shared := readShared(ctx, c, v)
			h := shared.history
			rep := newStatus(v)
			if cfg.StateDir != "" {
				rep.Forecast = daemon.ReadForecast(cfg.StateDir, v)
			}
			plan := defrag.Decide(v, cfg.Defrag, h, defrag.Situation{Manual: true, DiskFree: defrag.MemberDisk(c.Config(), v), Keepers: shared.keepers}, time.Now())
			rep.decide(plan)
			rep.Paused = shared.paused
			if shared.keepers != nil {
				rep.Keepers = shared.keepers
			}
			if p := rep.Paused; p != nil && rep.Verdict.Action != defrag.Skip {
				rep.Verdict.Action = defrag.Skip
				rep.Verdict.Reason = "the keepers are paused; otherwise: " + rep.Verdict.Reason
				rep.Verdict.Refusals = append(rep.Verdict.Refusals, cluster.Refusal{Gate: cluster.GatePause, Reason: p.String()})
			}
			rep.Notes = append(rep.Notes, shared.problems...)
			if history {
				rep.Runs = h.Runs
				if rep.Runs == nil {
					rep.Runs = []defrag.Report{}
				}
			}
			return a.print(rep, rep.table)
		},
	}
	config.AddFlag(cmd.Flags(), "rule", "defrag.rule")
	config.AddFlag(cmd.Flags(), "state-dir", "stateDir")
	cmd.Flags().BoolVar(&history, "history", false, "also show the last runs")
	return cmd
}

// sharedState is what keepers have written into etcd.
type sharedState struct {
	history  defrag.History
	paused   *cluster.Pause
	keepers  []cluster.Keeper
	problems []string
}

// readShared reads it all at once: where members hang, the waits do not add up. Without a leader etcd answers none of
// it, and nothing is waited for.
func readShared(ctx context.Context, c *cluster.Client, v cluster.View) sharedState {
	if _, ok := v.Leader(); !ok {
		return sharedState{problems: []string{"no pause, keeper or run can be shown: the members that answer have no common leader, so etcd serves no consistent reads"}}
	}
	var s sharedState
	var pauseErr, keepersErr error
	var wg sync.WaitGroup
	wg.Go(func() { s.history = defrag.ReadHistory(ctx, c) })
	wg.Go(func() { s.paused, pauseErr = c.ReadPause(ctx) })
	wg.Go(func() { s.keepers, keepersErr = c.Keepers(ctx) })
	wg.Wait()
	if s.history.Problem != "" {
		s.problems = append(s.problems, "the last runs: "+s.history.Problem)
	}
	for _, err := range []error{pauseErr, keepersErr} {
		if err != nil {
			s.problems = append(s.problems, err.Error())
		}
	}
	return s
}

func newStatus(v cluster.View) statusReport {
	r := statusReport{ClusterID: v.ClusterID, Taken: v.Taken.UTC(), Notes: []string{}, Keepers: []cluster.Keeper{},
		Forecast: forecast.Forecast{Basis: "one look shows no growth: a daemon with a stateDir keeps the sizes over time"}}
	if l, ok := v.Leader(); ok {
		r.Leader = &l.ID
	}
	for _, m := range v.Members {
		s := statusMember{ID: m.ID, Name: m.Name, Endpoint: m.Endpoint, Version: m.Version, Leader: m.Leader, Learner: m.Learner,
			Reachable: m.Reachable, Error: m.Error, QuotaBytes: m.Quota, QuotaSource: m.QuotaSource, Features: m.Features, Alarms: m.Alarms, DefragInFlight: m.DefragInFlight}
		if s.Alarms == nil {
			s.Alarms = []string{}
		}
		if m.Reachable {
			size, inUse, free, term, applied := m.DBSize, m.DBSizeInUse, m.Free(), m.RaftTerm, m.RaftAppliedIndex
			s.DBSizeBytes, s.DBSizeInUseBytes, s.DBSizeFreeBytes, s.RaftTerm, s.RaftAppliedIndex = &size, &inUse, &free, &term, &applied
		}
		r.Members = append(r.Members, s)
		if m.Reachable && m.DefragInFlight == nil && m.GaugeError != "" {
			r.Notes = append(r.Notes, fmt.Sprintf("whether member %s is being defragmented cannot be seen: %s", m, m.GaugeError))
		}
	}
	return r
}

// decide puts what a run would do into the verdict.
func (r *statusReport) decide(p defrag.Plan) {
	r.Verdict = statusVerdict{Action: defrag.Skip, Reason: p.Reason, ReclaimableBytes: p.ReclaimableBytes, Refusals: p.Refusals}
	if p.Outcome == defrag.Planned {
		r.Verdict.Action = defrag.Defragment
	}
	if len(p.Order) > 0 {
		r.Verdict.PredictedStallSeconds = &p.PredictedSeconds
	}
	r.Notes = append(r.Notes, p.Notes...)
}

func (r statusReport) table(w io.Writer) error {
	rows := make([][]string, 0, len(r.Members))
	for _, m := range r.Members {
		role := "follower"
		switch {
		case !m.Reachable:
			role = "unreachable"
		case m.Leader:
			role = "leader"
		case m.Learner:
			role = "learner"
		}
		inFlight := unknown
		if m.DefragInFlight != nil {
			inFlight = strconv.FormatInt(*m.DefragInFlight, 10)
		}
		quota := humanBytesOr(m.QuotaBytes)
		if m.QuotaBytes != nil {
			quota += " (" + string(m.QuotaSource) + ")"
		}
		rows = append(rows, []string{orUnknown(m.Name), m.ID.String(), role, orUnknown(m.Version), humanBytesOr(m.DBSizeBytes),
			humanBytesOr(m.DBSizeInUseBytes), humanBytesOr(m.DBSizeFreeBytes), quota, orUnknown(strings.Join(m.Alarms, " ")), inFlight, m.Endpoint})
	}
	err := writeTable(w, []string{"member", "id", "role", "version", ">size", ">in use", ">free", ">quota", "alarms", ">in flight", "endpoint"}, rows)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\ncluster %s\nverdict: %s: %s\n", r.ClusterID, r.Verdict.Action, r.Verdict.Reason)
	fmt.Fprintf(w, "quota reached in: %s (%s)\n", humanSecondsOr(r.Forecast.QuotaExhaustionSeconds), r.Forecast.Basis)
	if r.Paused != nil {
		fmt.Fprintln(w, r.Paused)
	}
	for _, m := range r.Members {
		if m.Error != "" {
			fmt.Fprintf(w, "member %s: %s\n", orUnknown(m.Name), m.Error)
		}
	}
	for _, k := range r.Keepers {
		fmt.Fprintf(w, "keeper: %s beside member %s, version %s, since %s\n", k.Host, orUnknown(k.Name), k.Version, k.Since.Format(time.RFC3339))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	if r.Runs == nil {
		return nil
	}
	fmt.Fprintln(w)
	runs := make([][]string, 0, len(r.Runs))
	for _, run := range r.Runs {
		runs = append(runs, []string{run.Started.Format(time.RFC3339), run.Trigger, string(run.Outcome), humanBytes(run.ReclaimedBytes),
			humanSeconds(run.Seconds), humanSeconds(run.PredictedSeconds), strconv.Itoa(run.LeaderMoves), run.By, run.Reason})
	}
	return writeTable(w, []string{"run", "trigger", "outcome", ">given back", ">took", ">predicted stall", ">leader moves", "by", "reason"}, runs)
}
