package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

// keptRuns is how many runs' exports and journals of a policy are kept.
const keptRuns = 14

// PolicyRunner runs policies. It is what the daemon calls.
type PolicyRunner struct {
	Cluster *cluster.Client
	// API connects to the API server when it is first needed.
	API func() (API, error)
	// Dir keeps plans, journals and exports; a policy that deletes needs one. Empty: a plan is made and thrown away.
	Dir string
	Log *slog.Logger
}

// PolicyReport is what one run of a policy came to.
type PolicyReport struct {
	Policy  string    `json:"policy"`
	Mode    string    `json:"mode"`
	Taken   time.Time `json:"taken"`
	Summary *Summary  `json:"summary"`
	Result  *Result   `json:"result"` // null where nothing was to be deleted
}

// ErrNoDirectory is returned for a policy that deletes where there is no directory for its exports.
var ErrNoDirectory = errors.New("a policy that deletes needs stateDir, for the export of what it deletes")

// Run plans, and in mode apply deletes what was planned.
func (r *PolicyRunner) Run(ctx context.Context, p Policy) (PolicyReport, error) {
	rep := PolicyReport{Policy: p.Name, Mode: ModeReport, Taken: time.Now().UTC()}
	if p.Mode == ModeApply {
		rep.Mode = ModeApply
	}
	dir, err := r.dir(p.Name, rep.Mode)
	if err != nil {
		return rep, err
	}
	if r.Dir == "" {
		defer os.RemoveAll(dir)
	}
	sel := p.Selector()
	o := PlanOptions{File: filepath.Join(dir, "plan.jsonl"), Objects: lazyObjects{r.API}}
	live, err := OpenLive(ctx, r.Cluster, sel.Registry, &o)
	if err != nil {
		return rep, err
	}
	plan, summary, err := NewPlan(ctx, live, sel, time.Now(), o)
	if err != nil {
		return rep, err
	}
	rep.Summary = summary
	if rep.Mode != ModeApply || plan.End.Objects == 0 {
		return rep, nil
	}
	via, qps := p.way()
	e := &Executor{Via: via, Etcd: NewEtcd(r.Cluster), Export: dir, QPS: qps, MaxOrphanPods: DefaultMaxOrphanPods,
		Pressure: MembersLoad(r.Cluster), Log: r.Log}
	if via == ViaEtcd {
		e.MaxOrphanPods = 0
	} else {
		if e.API, err = r.API(); err != nil {
			return rep, err
		}
	}
	res, err := e.Execute(ctx, plan)
	rep.Result = &res
	if err != nil {
		return rep, err
	}
	return rep, prune(dir)
}

func (r *PolicyRunner) dir(policy, mode string) (string, error) {
	if r.Dir == "" {
		if mode == ModeApply {
			return "", ErrNoDirectory
		}
		return os.MkdirTemp("", "etcdkeeper-clean-")
	}
	dir := filepath.Join(r.Dir, "clean", policy)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the policy's directory: %w", err)
	}
	return dir, nil
}

// lazyObjects reads through an API server that may never be needed.
type lazyObjects struct{ open func() (API, error) }

// Object is ObjectReader.
func (l lazyObjects) Object(ctx context.Context, r kube.Resource, namespace, name string) ([]byte, error) {
	api, err := l.open()
	if err != nil {
		return nil, err
	}
	return apiSource{api: api}.Object(ctx, r, namespace, name)
}

// prune removes the oldest exports and journals of a policy's own directory.
func prune(dir string) error {
	var errs []error
	for _, pattern := range []string{"export-*.jsonl", "plan.jsonl.journal.*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		errs = append(errs, err)
		times := map[string]time.Time{}
		for _, f := range files {
			if st, err := os.Stat(f); err == nil {
				times[f] = st.ModTime()
			}
		}
		slices.SortFunc(files, func(a, b string) int { return times[b].Compare(times[a]) })
		for _, f := range files[min(keptRuns, len(files)):] {
			errs = append(errs, os.Remove(f))
		}
	}
	return errors.Join(errs...)
}
