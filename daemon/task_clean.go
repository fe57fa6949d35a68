package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/bulkclean"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/kube"
)

// cleanDir is where keepers note under cluster.Root when a policy last ran, so that of the keepers beside the members
// one runs it.
const cleanDir = "clean"

// cleanTolerance is more than the jitter by which runs of one schedule differ.
const cleanTolerance = 15 * time.Second

// setUpClean makes a task of every policy of the configuration.
func setUpClean(h *Host) (func(Env) ([]Task, error), error) {
	metrics := bulkclean.NewMetrics(h.Registry)
	var mu sync.Mutex
	latest := map[string]bulkclean.PolicyReport{}
	h.Status("clean", func() any {
		mu.Lock()
		defer mu.Unlock()
		if len(latest) == 0 {
			return nil
		}
		out := make(map[string]bulkclean.PolicyReport, len(latest))
		for k, v := range latest {
			out[k] = v
		}
		return out
	})
	connect := sync.OnceValues(func() (*kube.Client, error) {
		return kube.Open(kube.Options{Kubeconfig: h.Kubeconfig, Context: h.Context})
	})
	return func(e Env) ([]Task, error) {
		runner := &bulkclean.PolicyRunner{Cluster: e.Cluster, Dir: e.Config.StateDir, Log: h.Log,
			API: func() (bulkclean.API, error) {
				c, err := connect()
				if err != nil {
					return nil, err
				}
				return c, nil
			}}
		var tasks []Task
		for _, p := range e.Config.Clean.Policies {
			if p.Mode == bulkclean.ModeApply && e.Config.StateDir == "" {
				return nil, fmt.Errorf("clean: policy %s: %w", p.Name, bulkclean.ErrNoDirectory)
			}
			tasks = append(tasks, Task{Name: "clean-" + p.Name, When: p.Schedule, Jitter: 5 * time.Second, Run: func(ctx context.Context) error {
				rep, err := cleanOnce(ctx, e.Cluster, runner, p)
				if rep.Summary == nil {
					return err
				}
				metrics.Set(rep)
				mu.Lock()
				latest[p.Name] = rep
				mu.Unlock()
				h.Log.Info("policy ran", "policy", p.Name, "mode", rep.Mode, "selected", rep.Summary.Objects, "err", err)
				return err
			}})
		}
		return tasks, nil
	}, nil
}

// cleanOnce runs a policy unless the cluster is paused, or another keeper runs or ran it this time.
func cleanOnce(ctx context.Context, c *cluster.Client, r *bulkclean.PolicyRunner, p bulkclean.Policy) (bulkclean.PolicyReport, error) {
	var none bulkclean.PolicyReport
	if refusals := c.CheckPause(ctx); len(refusals) > 0 {
		return none, fmt.Errorf("%w: %s", ErrSkipped, refusals[0])
	}
	host, _ := os.Hostname()
	lock, err := c.Acquire(ctx, "clean-"+p.Name, fmt.Sprintf("etcdkeeper policy %s on %s", p.Name, host), cluster.MinLockTTL)
	var held *cluster.HeldError
	switch {
	case errors.As(err, &held):
		return none, fmt.Errorf("%w: %w", ErrSkipped, err)
	case err != nil:
		return none, err
	}
	defer lock.Release()
	notes, _, err := c.Records(ctx, cleanDir)
	if err != nil {
		return none, err
	}
	var last struct {
		At time.Time `json:"at"`
	}
	if raw := notes[p.Name]; raw != nil {
		if err := json.Unmarshal(raw, &last); err == nil && p.Schedule.Next(last.At).After(time.Now().Add(cleanTolerance)) {
			return none, fmt.Errorf("%w: another keeper ran policy %s at %s", ErrSkipped, p.Name, last.At.Format(time.RFC3339))
		}
	}
	last.At = time.Now().UTC()
	note, err := json.Marshal(last)
	if err != nil {
		return none, err
	}
	if err := c.Share(ctx, cleanDir+"/"+p.Name, note); err != nil {
		return none, err
	}
	return r.Run(lock.Context(), p)
}
