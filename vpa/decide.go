package vpa

import (
	"math"
	"time"
)

// modelStep is how far a number of the model may run ahead of the one that is
// held before that one follows.
const modelStep = 0.05

// Bases of a memory limit, as reports call them.
const (
	basisNone    = "none"
	basisHistory = "history"
	basisOOM     = "oom"
	basisModel   = "model"
	basisRestart = "restart"
	basisMinimum = "minimum"
)

// decision is the numbers of a recommendation, before they are put into words.
type decision struct {
	history  memoryTarget
	model    Model
	database float64 // share of the database in the history's limit
	target   float64
	tight    float64 // the limit below which it grows now
	limit    float64 // what is held
	basis    string
}

// decide works the memory limit out and settles it at time now. It needs history.
func (r *Recommender) decide(now time.Time) decision {
	d := decision{history: r.historyTarget(), basis: basisHistory}
	p := r.cfg.Policy
	if r.steady || len(r.live.windows) > 0 || known(r.before.Drivers.Keys) {
		d.model = NewModel(r.modelInput())
	}
	if r.steady && d.model.Known && known(d.model.DatabaseInMemory) {
		d.database = d.model.DatabaseInMemory
	}
	d.target = d.history.level + d.history.headroom + d.database
	d.tight = d.history.level + p.GrowShare*d.history.headroom + (1-modelStep)*d.database
	raise := func(basis string, target, tight float64) {
		if known(target) && target > d.target {
			d.target, d.basis = target, basis
		}
		if known(tight) {
			d.tight = max(d.tight, tight)
		}
	}
	if floor := d.history.floor; floor > 0 {
		raise(basisOOM, floor, floor)
	}
	if d.model.Known {
		v := float64(d.model.Limit.Bytes)
		raise(basisModel, v, (1-modelStep)*v)
		if gate := d.model.RestartGate; known(float64(gate.Bytes)) {
			raise(basisRestart, float64(gate.Bytes), (1-modelStep)*float64(gate.Bytes))
		}
	}
	raise(basisMinimum, float64(p.MinLimit), float64(p.MinLimit))
	r.band.settle(now, d.target, d.tight, p)
	d.limit = r.band.Held
	return d
}

// Limit settles the memory limit at time now and returns it in bytes, NaN
// without history. It is the limit of Recommend, without the words.
func (r *Recommender) Limit(now time.Time) float64 {
	if len(r.peaks.windows) == 0 {
		return math.NaN()
	}
	return r.decide(now).limit
}

var _ Limiter = (*Recommender)(nil)
