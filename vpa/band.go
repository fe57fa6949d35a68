package vpa

import "time"

// band holds a number still until there is a reason to move it.
type band struct {
	Held     float64   `json:"held"`
	LowSince time.Time `json:"lowSince,omitzero"`
	GrownAt  time.Time `json:"grownAt,omitzero"`
}

// moving is how long after it grew a number is taken to be still on its way.
const moving = time.Hour

// grewJustNow says whether the number is still on its way up. A clock that went
// back ends that.
func (b *band) grewJustNow(now time.Time) bool {
	return !b.GrownAt.IsZero() && !now.Before(b.GrownAt) && now.Sub(b.GrownAt) < moving
}

// settle moves the number: at once upward when it is below tight, downward only
// after the target stayed well below for a while. It says whether it moved.
func (b *band) settle(now time.Time, target, tight float64, p Policy) bool {
	switch {
	case b.Held == 0:
		b.Held, b.GrownAt = target, now
		return true
	case tight > b.Held && target > b.Held:
		b.Held, b.LowSince, b.GrownAt = target, time.Time{}, now
		return true
	case target >= b.Held*(1-p.ShrinkShare):
		b.LowSince = time.Time{}
	case b.LowSince.IsZero() || now.Before(b.LowSince):
		b.LowSince = now
	case now.Sub(b.LowSince) >= p.ShrinkAfter:
		b.Held, b.LowSince = target, time.Time{}
		return true
	}
	return false
}
