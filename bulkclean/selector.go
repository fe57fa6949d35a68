package bulkclean

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Defaults of a Selector.
const (
	DefaultRegistry  = "/registry"
	DefaultOlderThan = 24 * time.Hour // a day's results stay for whoever looks into a failure
	DefaultMaxShare  = 1.0
)

// Registry is an API server's --etcd-prefix as a Selector wants it, which is how the API server itself reads it: with one
// slash before it and none behind it. Empty means DefaultRegistry.
func Registry(prefix string) string {
	if prefix == "" {
		return DefaultRegistry
	}
	return "/" + strings.Trim(prefix, "/")
}

// OwnerState says what became of an object's owner.
type OwnerState string

// States of an owner. Objects of a contested or unknown owner are never selected.
const (
	OwnerNone      OwnerState = "none"      // the object names no owner
	OwnerGone      OwnerState = "gone"      // no owner of that name, or one with another uid
	OwnerLive      OwnerState = "live"      // the very owner exists
	OwnerContested OwnerState = "contested" // a controller of the same name was made again and takes the object for its own
	OwnerUnknown   OwnerState = "unknown"   // the owner's kind is not known, or it cannot be read
)

// Selector says what to delete. The zero value selects nothing and is refused: start from NewSelector.
type Selector struct {
	Kind          string   `json:"kind"`
	Namespaces    []string `json:"namespaces,omitempty"`
	AllNamespaces bool     `json:"allNamespaces,omitempty"`

	OlderThan time.Duration `json:"-"` // since the end, as the condition says; see olderThanSeconds
	States    []State       `json:"states"`
	Owners    []OwnerState  `json:"owners"`
	NameStem  string        `json:"nameStem,omitempty"`
	NameRegex string        `json:"nameRegex,omitempty"`

	Keep     int     `json:"keep"`     // the newest so many of an owner or name stem stay
	Limit    int     `json:"limit"`    // the oldest so many are taken; 0 means all
	MaxShare float64 `json:"maxShare"` // refuse to select more than this share of what was scanned

	// Finalizers also selects objects that have finalizers; they go through the API server only.
	Finalizers bool `json:"finalizers,omitempty"`

	Registry string `json:"registry"` // prefix of all keys, without a slash at the end
}

// NewSelector has the defaults: a day old, complete or failed, without an owner or with one that is gone.
func NewSelector(kind string, namespaces ...string) Selector {
	return Selector{
		Kind: kind, Namespaces: namespaces, OlderThan: DefaultOlderThan,
		States: []State{Complete, Failed}, Owners: []OwnerState{OwnerNone, OwnerGone},
		MaxShare: DefaultMaxShare, Registry: DefaultRegistry,
	}
}

// namespaceName is a DNS label, as every namespace's name.
var namespaceName = regexp.MustCompile("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")

// Validate joins everything that is wrong with the selector, an empty rule above all.
func (s Selector) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	kind, err := KindByName(s.Kind)
	if err != nil {
		errs = append(errs, err)
	}
	switch {
	case len(s.Namespaces) == 0 && !s.AllNamespaces:
		bad("namespaces: name at least one, or say all namespaces explicitly")
	case len(s.Namespaces) > 0 && s.AllNamespaces:
		bad("namespaces: name some or take all, not both")
	}
	for _, ns := range s.Namespaces {
		if !namespaceName.MatchString(ns) {
			bad("namespaces: %q is not the name of a namespace", ns)
		}
	}
	if s.OlderThan < 0 {
		bad("older than: want 0 or more, got %s", s.OlderThan)
	}
	if len(s.States) == 0 {
		bad("state: an empty rule selects nothing: want complete, failed or both")
	}
	for _, st := range s.States {
		if st != Complete && st != Failed {
			bad("state %q: want complete or failed", st)
		}
	}
	if len(s.Owners) == 0 {
		bad("owner: an empty rule selects nothing: want none, gone or both")
	}
	for _, o := range s.Owners {
		switch {
		case o == OwnerNone || o == OwnerGone:
		case o == OwnerLive && kind != nil && kind.liveOwner:
		case o == OwnerLive:
			bad("owner live: a live owner's %s belong to its history limits: lower those", s.Kind)
		default:
			bad("owner %q: want none or gone", o)
		}
	}
	if s.NameStem != "" && s.NameRegex != "" {
		bad("name: give a stem or a regular expression, not both")
	}
	if _, err := regexp.Compile(s.NameRegex); err != nil {
		bad("name regex: %w", err)
	}
	if s.Keep < 0 {
		bad("keep: want 0 or more, got %d", s.Keep)
	}
	if s.Limit < 0 {
		bad("limit: want 0 (no limit) or more, got %d", s.Limit)
	}
	if !(s.MaxShare > 0 && s.MaxShare <= 1) {
		bad("max share: want more than 0 and at most 1, got %v", s.MaxShare)
	}
	if !strings.HasPrefix(s.Registry, "/") || strings.HasSuffix(s.Registry, "/") {
		bad("registry prefix %q: want it to begin with a slash and not to end with one, such as %s", s.Registry, DefaultRegistry)
	}
	return errors.Join(errs...)
}

// Class is why an object is kept.
type Class string

// Classes of kept objects, in the order in which they are asked.
const (
	KeptUnreadable Class = "unreadable"  // the value cannot be read, or is not of the object its key names
	KeptName       Class = "name"        // another name than asked for
	KeptDeleting   Class = "deleting"    // has a deletionTimestamp
	KeptOptOut     Class = "opt-out"     // carries the annotation
	KeptManagedBy  Class = "managed-by"  // another controller manages it
	KeptSuspended  Class = "suspended"   // not ended, and suspended
	KeptRunning    Class = "running"     // not ended
	KeptUnsettled  Class = "unsettled"   // ended, with something still to be done
	KeptSpecial    Class = "special"     // a reason of the kind's own
	KeptLeased     Class = "leased"      // goes with its lease
	KeptState      Class = "state"       // ended another way than asked for
	KeptAge        Class = "age-unknown" // does not say when it ended
	KeptYoung      Class = "young"
	KeptTTL        Class = "ttl"        // has a time to live that is not over
	KeptFinalizers Class = "finalizers" // has finalizers
	KeptLiveOwner  Class = "live-owner" // belongs to its owner's history limits
	KeptContested  Class = "contested"
	KeptOwner      Class = "owner" // owner none or gone, and not asked for
	KeptUnknown    Class = "unknown-owner"
	KeptNewest     Class = "newest" // among the newest of its owner or stem
	KeptLimit      Class = "limit"  // younger than the oldest asked for
)

var classReasons = map[Class]string{
	KeptUnreadable: "the value cannot be read, or is not of the object that its key names",
	KeptName:       "another name than asked for",
	KeptDeleting:   "deletion has begun: something holds it up, look at its finalizers",
	KeptOptOut:     "carries the annotation " + KeepAnnotation,
	KeptManagedBy:  "managed by another controller (spec.managedBy)",
	KeptSuspended:  "suspended, not ended",
	KeptRunning:    "has not ended",
	KeptUnsettled:  "ended, but its pods are active, terminating or not counted, or it is not archived",
	KeptSpecial:    "would be made again",
	KeptLeased:     "goes with its lease",
	KeptState:      "ended another way than asked for",
	KeptAge:        "does not say when it ended",
	KeptYoung:      "ended too recently",
	KeptTTL:        "has a time to live of its own that is not over",
	KeptFinalizers: "has finalizers: ask for them explicitly, and go through the API server",
	KeptLiveOwner:  "its owner lives: lower the owner's history limits",
	KeptContested:  "its controller was made again under the same name and takes it for its own",
	KeptOwner:      "has an owner, or none, other than asked for",
	KeptUnknown:    "the kind of its owner is not known",
	KeptNewest:     "among the newest of its owner or name stem",
	KeptLimit:      "not among the oldest asked for",
}

// matcher is a validated Selector.
type matcher struct {
	Selector
	kind *Kind
	name *regexp.Regexp // nil: any
}

func (s Selector) matcher() (*matcher, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	kind, err := KindByName(s.Kind)
	if err != nil {
		return nil, err
	}
	m := &matcher{Selector: s, kind: kind}
	if s.NameRegex != "" {
		m.name, err = regexp.Compile(s.NameRegex)
	}
	return m, err
}

// named tells whether the name is asked for. A regular expression matches anywhere unless it is anchored, as grep's.
func (m *matcher) named(name string) bool {
	switch {
	case m.NameStem != "":
		return hasStem(name, m.NameStem)
	case m.name != nil:
		return m.name.MatchString(name)
	}
	return true
}

// decide applies every rule that needs the object alone. An empty Class selects it, and reason says why either way.
// leaseOver tells whether a lease that should have ended the object long ago has not.
func (m *matcher) decide(f *Facts, now time.Time, leaseOver bool) (class Class, reason string) {
	age := now.Sub(f.FinishedAt)
	switch {
	case !m.named(f.Name):
		return KeptName, ""
	case f.Deleting:
		return KeptDeleting, ""
	case f.OptedOut:
		return KeptOptOut, ""
	case f.ManagedBy != "":
		return KeptManagedBy, "managed by " + f.ManagedBy
	case f.Kept != "":
		return KeptSpecial, f.Kept
	case f.State == "" && f.Suspended:
		return KeptSuspended, ""
	case f.State == "":
		return KeptRunning, ""
	case f.Unsettled != "":
		return KeptUnsettled, f.Unsettled
	case m.kind.leased && !leaseOver:
		return KeptLeased, ""
	case !slices.Contains(m.States, f.State):
		return KeptState, ""
	case f.FinishedAt.IsZero():
		return KeptAge, ""
	case age < m.OlderThan || age < 0:
		return KeptYoung, ""
	case f.HasTTL && age < f.TTL:
		return KeptTTL, ""
	case len(f.Finalizers) > 0 && !m.Finalizers:
		return KeptFinalizers, "finalizers " + strings.Join(f.Finalizers, ", ")
	}
	reason = fmt.Sprintf("%s %s ago", f.State, roughly(age))
	if f.HasTTL {
		reason += fmt.Sprintf(", its time to live of %s is over", f.TTL)
	}
	return "", reason
}

// owned applies the rule about owners.
func (m *matcher) owned(state OwnerState) Class {
	switch {
	case state == OwnerUnknown:
		return KeptUnknown
	case state == OwnerContested:
		return KeptContested
	case slices.Contains(m.Owners, state):
		return ""
	case state == OwnerLive:
		return KeptLiveOwner
	}
	return KeptOwner
}

// roughly is an age in its largest unit.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return fmt.Sprintf("%d seconds", d/time.Second)
}
