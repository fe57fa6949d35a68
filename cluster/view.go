// Package cluster is what etcd says of itself: members, sizes, quota, alarms, and the calls that act on one member.
// It holds the connection set, the safety gates, the lock, the pause and the small shared records under
// /etcdkeeper/. It never reads or writes a key of Kubernetes.
//
// A Client is safe for concurrent use; a View is an immutable value.
package cluster

import (
	"fmt"
	"strconv"
	"time"
)

// ID is a cluster or member id; its text form is etcdctl's hexadecimal one.
type ID uint64

func (id ID) String() string { return strconv.FormatUint(uint64(id), 16) }

// MarshalText is String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil {
		return fmt.Errorf("member id %q: want hexadecimal digits", text)
	}
	*id = ID(n)
	return nil
}

// QuotaSource says where a member's quota was read.
type QuotaSource string

// Sources of a quota, best first.
const (
	QuotaFromStatus  QuotaSource = "status"  // the maintenance Status call, right from 3.6.6
	QuotaFromMetrics QuotaSource = "metrics" // etcd_server_quota_backend_bytes
	QuotaFromFlag    QuotaSource = "flag"    // given by the user
	QuotaUnknown     QuotaSource = "unknown"
)

// Member is one member as seen at View.Taken. Pointers are nil where a value is not known.
type Member struct {
	ID         ID
	Name       string
	PeerURLs   []string
	ClientURLs []string
	Endpoint   string // the client URL through which it was asked; "" where none is known
	Given      bool   // a given endpoint is answered by it, now or earlier
	Learner    bool
	Started    bool // false: added, but has never reported its name

	Reachable bool   // Status was answered within the deadline
	Error     string // why not

	// What Status says: valid when Reachable.
	Version          string
	Leader           bool
	LeaderID         ID // the leader it believes in, 0 for none
	RaftTerm         uint64
	RaftIndex        uint64
	RaftAppliedIndex uint64
	Revision         int64
	DBSize           int64
	DBSizeInUse      int64
	StatusErrors     []string
	Downgrading      bool

	Quota       *int64
	QuotaSource QuotaSource

	// The etcd_disk_defrag_inflight gauge. Nil: could not be read, and GaugeError says why.
	DefragInFlight *int64
	GaugeError     string

	// Features are the feature gates that are on, by name; nil where the member does not tell, as before 3.6.
	Features []string

	Alarms []string // NOSPACE, CORRUPT
}

// Free is the part of the database file that a defragmentation gives back, in bytes. 0 where unreachable.
func (m Member) Free() int64 { return max(0, m.DBSize-m.DBSizeInUse) }

// Voter tells whether the member counts for the quorum.
func (m Member) Voter() bool { return !m.Learner }

// String is how a person calls the member: its name, else its id.
func (m Member) String() string {
	if m.Name != "" {
		return m.Name
	}
	return m.ID.String()
}

// View is what all members said at one time.
type View struct {
	ClusterID ID
	Taken     time.Time
	Members   []Member // by id
}

// Leader is the member that the reachable ones agree is the leader; false where they do not agree or there is none.
func (v View) Leader() (Member, bool) {
	var id ID
	for _, m := range v.Members {
		if !m.Reachable || m.LeaderID == 0 {
			continue
		}
		if id != 0 && id != m.LeaderID {
			return Member{}, false
		}
		id = m.LeaderID
	}
	for _, m := range v.Members {
		if id != 0 && m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// Voters are the members that count for the quorum.
func (v View) Voters() []Member {
	var out []Member
	for _, m := range v.Members {
		if m.Voter() {
			out = append(out, m)
		}
	}
	return out
}

// Beside is the member that the keeper looks after: the configured name, else the member that answers the only given
// endpoint. False where it looks after the whole cluster, or where that member is not in the view.
func (v View) Beside(cfg Config) (Member, bool) {
	for _, m := range v.Members {
		switch {
		case cfg.Member != "" && (m.Name == cfg.Member || m.ID.String() == cfg.Member):
			return m, true
		case cfg.Member == "" && len(cfg.Endpoints) == 1 && m.Given:
			return m, true
		}
	}
	return Member{}, false
}
