package vpa

import (
	"math"
	"time"
)

// modelStep is how far a number of the model may run ahead of the one that is
// held before that one follows.
const modelStep = 0.05

// movingStep stands for modelStep within an hour of the last growth: a database
// that fills up or a storm of reads would otherwise raise the limit every few
// seconds, and what is in use asks for more by itself.
const movingStep = 0.25

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
	tight    float64 // the limit below which it grows
	urgent   float64 // the limit below which it grows even while it is on its way up
	limit    float64 // what is held
	basis    string
}

// decide works the memory limit out and settles it at time now. It needs history.
func (r *Recommender) decide(now time.Time) decision {
	d := decision{history: r.historyTarget(), basis: basisHistory}
	p := r.cfg.Policy
	if r.steady || len(r.live.windows) > 0 || known(r.before.Drivers.Keys) || r.keyspace != nil {
		d.model = NewModel(r.modelInput())
	}
	if r.steady && d.model.Known && known(d.model.DatabaseInMemory) {
		d.database = d.model.DatabaseInMemory
	}
	d.target = d.history.level + d.history.headroom + d.database
	seen := d.history.level + p.GrowShare*d.history.headroom
	d.tight, d.urgent = seen+(1-modelStep)*d.database, seen+(1-movingStep)*d.database
	raise := func(basis string, target float64, tight, urgent float64) {
		if !known(target) {
			return
		}
		if target > d.target {
			d.target, d.basis = target, basis
		}
		d.tight, d.urgent = max(d.tight, tight*target), max(d.urgent, urgent*target)
	}
	raise(basisOOM, d.history.floor, 1, 1)
	if d.model.Known {
		raise(basisModel, float64(d.model.Limit.Bytes), 1-modelStep, 1-movingStep)
		raise(basisRestart, float64(d.model.RestartGate.Bytes), 1-modelStep, 1-movingStep)
	}
	raise(basisMinimum, float64(p.MinLimit), 1, 1)
	from := d.tight
	if r.band.grewJustNow(now) {
		from = d.urgent
	}
	r.band.settle(now, d.target, from, p)
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
