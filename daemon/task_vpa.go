package daemon

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
	"github.com/etcdkeeper/etcdkeeper/kube"
	"github.com/etcdkeeper/etcdkeeper/schedule"
	"github.com/etcdkeeper/etcdkeeper/vpa"
)

// vpaSaveInterval is how often the checkpoint is written: an hourly peak is lost
// at worst.
const vpaSaveInterval = 10 * time.Minute

// vpaPart is what the sizing tasks share. Without a member beside it, a keeper
// sizes every member by its metrics.
type vpaPart struct {
	host    *Host
	env     Env
	metrics *vpa.Metrics
	applier *vpa.Applier

	mu     sync.Mutex
	sizers map[cluster.ID]*vpa.Sizer
	saved  time.Time
	last   []vpa.Recommendation
	report *vpa.ApplyReport
}

// setUpVPA makes the tasks that sample the members' memory, recommend sizes, and
// apply them where that is switched on.
func setUpVPA(h *Host) (func(Env) ([]Task, error), error) {
	metrics := vpa.NewMetrics(h.Registry)
	var mu sync.Mutex
	var current *vpaPart
	h.Status("vpa", func() any {
		mu.Lock()
		defer mu.Unlock()
		if current == nil {
			return nil
		}
		return current.status()
	})
	return func(e Env) ([]Task, error) {
		p := &vpaPart{host: h, env: e, metrics: metrics, sizers: map[cluster.ID]*vpa.Sizer{}, saved: time.Now()}
		if err := p.setUpApplier(); err != nil {
			return nil, err
		}
		sample := func(ctx context.Context) error {
			mu.Lock()
			current = p
			mu.Unlock()
			return p.sample(ctx)
		}
		return []Task{
			{Name: "vpa-sample", When: schedule.Every(e.Config.VPA.SampleInterval), AtStart: true, Timeout: time.Minute, Run: sample, Close: p.save},
			{Name: "vpa", When: schedule.Every(e.Config.VPA.ApplyInterval), Timeout: 10 * time.Minute, Jitter: 10 * time.Second, Run: p.recommend},
		}, nil
	}, nil
}

// setUpApplier makes the applier; where manifests are only proposed, the API
// server may be missing.
func (p *vpaPart) setUpApplier() error {
	cfg := p.env.Config.VPA
	if cfg.Apply == vpa.ApplyOff {
		return nil
	}
	var pods vpa.Pods
	client, err := kube.Open(kube.Options{Kubeconfig: p.host.Kubeconfig, Context: p.host.Context})
	switch {
	case err == nil:
		pods = client
	case cfg.Apply == vpa.ApplyResize:
		return fmt.Errorf("vpa.apply: resize needs the API server: %w", err)
	default:
		p.host.Log.Info("vpa proposes manifests without Events: no API server is configured", "err", err)
	}
	name, err := os.Hostname()
	if err != nil {
		name = "unknown-host"
	}
	p.applier = vpa.NewApplier(p.env.Cluster, pods, cfg, "vpa of "+name, p.host.Log, p.metrics)
	return nil
}

// members are the members that this keeper sizes.
func (p *vpaPart) members(v cluster.View) (members []cluster.Member, beside bool) {
	if m, ok := v.Beside(p.env.Config.Etcd); ok {
		return []cluster.Member{m}, true
	}
	if p.env.Config.Etcd.Member != "" {
		return nil, false
	}
	for _, m := range v.Members {
		if m.Started {
			members = append(members, m)
		}
	}
	return members, false
}

// sizersOf makes the sizers that are missing.
func (p *vpaPart) sizersOf(v cluster.View) ([]*vpa.Sizer, error) {
	members, beside := p.members(v)
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*vpa.Sizer
	for _, m := range members {
		s := p.sizers[m.ID]
		if s == nil {
			cfg := p.env.Config.VPA
			if cfg.Members == 0 {
				cfg.Members = len(v.Voters())
			}
			var err error
			s, err = vpa.NewSizer(p.env.Cluster, m, cfg, vpa.SizerOptions{
				Log: p.host.Log, StateDir: p.env.Config.StateDir, CgroupDir: cfg.CgroupDir, Metrics: p.metrics, Local: beside,
			})
			if err != nil {
				return nil, err
			}
			p.sizers[m.ID] = s
		}
		out = append(out, s)
	}
	return out, nil
}

// sample takes a sample of each member. The membership is read from the last
// look of the watch task, so that a sample costs one page of metrics.
func (p *vpaPart) sample(ctx context.Context) error {
	v, ok := p.host.Watch.Latest()
	if !ok {
		return fmt.Errorf("%w: the cluster was not seen yet", ErrSkipped)
	}
	sizers, err := p.sizersOf(v)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range sizers {
		errs = append(errs, s.Sample(ctx))
	}
	if time.Since(p.saved) > vpaSaveInterval {
		p.saved = time.Now()
		p.save()
	}
	return errors.Join(errs...)
}

// recommend settles the recommendations, shares the profiles and applies the
// one of the member beside this keeper.
func (p *vpaPart) recommend(ctx context.Context) error {
	v, err := p.env.Cluster.View(ctx)
	if err != nil {
		return err
	}
	sizers, err := p.sizersOf(v)
	if err != nil {
		return err
	}
	var errs []error
	var all []vpa.Recommendation
	keys, counted := p.latestKeyspace()
	for _, s := range sizers {
		if counted {
			s.SetKeyspace(keys)
		}
		all = append(all, s.Recommend(ctx))
	}
	_, beside := p.members(v)
	if p.applier != nil && beside && len(all) == 1 {
		rep, err := p.applier.Apply(ctx, sizers[0], all[0])
		errs = append(errs, err)
		p.mu.Lock()
		p.report = &rep
		p.mu.Unlock()
		if rep.Outcome == vpa.OutcomeRefused {
			p.host.Log.Info("size not applied", "member", sizers[0].Member().String(), "reason", rep.Reason, "gates", rep.Closed)
		}
	}
	for _, s := range sizers {
		errs = append(errs, s.Share(ctx, v))
	}
	p.mu.Lock()
	p.last = all
	p.mu.Unlock()
	return errors.Join(errs...)
}

// latestKeyspace is what this keeper's latest census found, where it takes one.
func (p *vpaPart) latestKeyspace() (vpa.Keyspace, bool) {
	if p.host.census == nil {
		return vpa.Keyspace{}, false
	}
	c, growth := p.host.census.get()
	if c == nil {
		return vpa.Keyspace{}, false
	}
	return Keyspace(c, growth), true
}

// Keyspace is a census in the terms of package vpa. growth may be empty: it is
// not known then.
func Keyspace(c *census.Census, growth []census.Growth) vpa.Keyspace {
	k := vpa.Keyspace{Taken: c.Taken, Source: c.Source}
	perDay := map[string]float64{}
	for _, g := range growth {
		perDay[keyspace.GroupResource(g.Group, g.Resource)] = g.BytesPerSecond * 24 * time.Hour.Seconds()
	}
	for _, r := range c.Resources {
		row := vpa.KeyspaceResource{Name: r.Name(), Keys: float64(r.Keys), KeyBytes: float64(r.Bytes - r.ValueBytes), Bytes: float64(r.Bytes), BytesPerDay: math.NaN()}
		if len(growth) > 0 {
			row.BytesPerDay = perDay[row.Name]
		}
		k.Resources = append(k.Resources, row)
	}
	return k
}

func (p *vpaPart) save() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sizers {
		if err := s.Save(); err != nil {
			p.host.Log.Warn("vpa checkpoint not written", "err", err)
		}
	}
}

func (p *vpaPart) status() any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return struct {
		Recommendations []vpa.Recommendation `json:"recommendations"`
		LastApply       *vpa.ApplyReport     `json:"lastApply"`
	}{p.last, p.report}
}
