package vpa

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// ProfilesDir is where keepers share their members' profiles, below
// cluster.Root.
const ProfilesDir = "vpa"

// The bounds of sharing: a profile is put at most so often, and one that is
// older than ProfileAge is not of a member that lives.
const (
	ProfileInterval = 10 * time.Minute
	ProfileAge      = 24 * time.Hour
	profileVersion  = 1
	maxWords        = 400
)

// Profile is what a keeper tells the others of its member's size.
type Profile struct {
	Version    int       `json:"version"`
	Member     string    `json:"member"`
	At         time.Time `json:"at"`
	Confidence Number    `json:"confidence"`
	CPU        Number    `json:"cpuCores"`
	Request    Number    `json:"requestBytes"`
	Limit      Number    `json:"limitBytes"`
	Lower      Number    `json:"lowerBytes"`
	Upper      Number    `json:"upperBytes"`
	GoMemLimit Number    `json:"goMemLimitBytes"`
	Words      string    `json:"words"` // why the limit
	// Applies says that the keeper resizes its member, Pending that it is still to
	// do so.
	Applies bool `json:"applies"`
	Pending bool `json:"pending"`
}

// ProfileOf is the profile of a recommendation.
func ProfileOf(r Recommendation) Profile {
	words := r.Memory.Limit.Words
	if len(words) > maxWords {
		words = strings.ToValidUTF8(words[:maxWords], "") + "…"
	}
	return Profile{
		Version: profileVersion, Member: r.Member, At: r.At, Confidence: r.Confidence, CPU: r.CPU.Request,
		Request: r.Memory.Request.Bytes, Limit: r.Memory.Limit.Bytes, Lower: r.Memory.Lower, Upper: r.Memory.Upper,
		GoMemLimit: r.GoMemLimit.Bytes, Words: words,
	}
}

// ParseProfile reads a profile and refuses a newer version and numbers that are
// not sizes.
func ParseProfile(b []byte) (Profile, error) {
	nan := Number(math.NaN())
	p := Profile{Confidence: nan, CPU: nan, Request: nan, Limit: nan, Lower: nan, Upper: nan, GoMemLimit: nan}
	if err := json.Unmarshal(b, &p); err != nil {
		return Profile{}, fmt.Errorf("read a vpa profile: %w", err)
	}
	if p.Version != profileVersion || p.Member == "" {
		return Profile{}, fmt.Errorf("read a vpa profile: version %d of member %q, want version %d", p.Version, p.Member, profileVersion)
	}
	for _, n := range []Number{p.CPU, p.Request, p.Limit, p.Lower, p.Upper, p.GoMemLimit} {
		if v := float64(n); v < 0 || v > 1<<50 {
			return Profile{}, fmt.Errorf("read a vpa profile of member %s: %v is not a size", p.Member, v)
		}
	}
	return p, nil
}

// OverMembers raises a recommendation to the maximum over the members, since
// any of them may lead tomorrow. Profiles older than ProfileAge, from the
// future, and the member's own are left out.
func (r Recommendation) OverMembers(profiles []Profile) Recommendation {
	out := r
	profiles = slices.Clone(profiles)
	slices.SortFunc(profiles, func(a, b Profile) int { return strings.Compare(a.Member, b.Member) })
	for _, p := range profiles {
		if p.Member == r.Member || r.At.Sub(p.At) > ProfileAge || p.At.Sub(r.At) > ProfileInterval {
			continue
		}
		raise := func(own *Number, v Number) bool {
			if !known(float64(v)) || (known(float64(*own)) && *own >= v) {
				return false
			}
			*own = v
			return true
		}
		from := func(a *Amount, what string, v Number) bool {
			if !raise(&a.Bytes, v) {
				return false
			}
			*a = Amount{Bytes: v, Words: fmt.Sprintf("%s %s = that of member %s, which needs most; any member may lead", what, size(float64(v)), p.Member)}
			return true
		}
		if raise(&out.CPU.Request, p.CPU) {
			out.CPU.Words = fmt.Sprintf("request %.0fm = that of member %s, which needs most", float64(p.CPU)*1000, p.Member)
		}
		from(&out.Memory.Request, "request", p.Request)
		from(&out.GoMemLimit, "GOMEMLIMIT", p.GoMemLimit)
		if from(&out.Memory.Limit, "limit", p.Limit) {
			out.Memory.Limit.Words += " (" + p.Words + ")"
			out.Memory.Lower, out.Memory.Upper = p.Lower, p.Upper
			out.Decisive = p.Member
		}
	}
	return out
}
