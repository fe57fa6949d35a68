// Package seed makes a Kubernetes-like keyspace in the encoding in which a kube-apiserver stores it: protobuf behind
// the k8s\0 prefix for built-in types, JSON for custom resources, leases on events. The demo, the tests and the
// benchmarks fill their etcd with it.
//
// The same Options give the same keys and values. The package knows nothing of an API server: it never validates,
// defaults or admits, and it writes past everything. It must never be pointed at an etcd that somebody needs.
//
// A Generator is not safe for concurrent use; Write is.
package seed

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// DefaultPrefix is the API server's default of --etcd-prefix.
const DefaultPrefix = "/registry"

// DefaultNow is the time from which ages count where Options.Now is zero, so that an empty Options is deterministic.
var DefaultNow = time.Date(2026, time.June, 1, 12, 0, 0, 0, time.UTC)

// Object is one key with its value in storage encoding.
type Object struct {
	Group, Resource string // as in the API: "" and nodes, "batch" and jobs
	Namespace, Name string
	UID             types.UID // empty where the key is no Kubernetes object
	Key             string
	Value           []byte
	// Lease is the number of the etcd lease that the key is attached to, 0 for none. Keys with the same number share
	// one lease, as the API server's do.
	Lease int
}

// Options says how much of everything there is. The zero value is an empty keyspace.
type Options struct {
	Prefix string    // DefaultPrefix where empty
	Seed   uint64    // another seed, other names and payloads
	Now    time.Time // what ages are counted from; DefaultNow where zero

	Namespaces []string // where the namespaced objects go, in turn; "default" where empty

	Nodes int // each with its lease in kube-node-lease

	Deployments     int // each with one ReplicaSet
	PodsPerReplica  int // running pods of each ReplicaSet
	OldReplicaSets  int // superseded ReplicaSets of each Deployment, with 0 replicas
	Services        int // each with its Endpoints
	ServiceAccounts int

	Secrets          int
	SecretBytes      int  // payload of a secret; 1 KiB where 0
	EncryptedSecrets bool // secrets as aescbc ciphertext: only names can be read
	HelmReleases     int
	HelmRevisions    int // secrets of each release; 1 where 0

	ConfigMaps     int
	ConfigMapBytes int // payload of a config map; 1 KiB where 0

	LeaderLeases int // leader election leases in kube-system

	Events          int // with an etcd lease
	EventsNoLease   int // without one: they never expire
	EventsPerLease  int // 1,000 where 0, as the API server shares them
	EventNamespaces []string

	CronJobs []CronJobSet
	Jobs     []JobSet

	Workflows         []CustomSet // Argo Workflows; Group and names are filled in
	SparkApplications []CustomSet // the same for SparkApplications
	Custom            []CustomSet

	Bookkeeping bool // compact_rev_key and the health and range keys of an API server
}

// Generator yields the objects of its Options.
type Generator struct {
	o     Options
	rng   *rand.Rand
	noise []byte // random text that payloads are cut from
	scope int    // round robin over namespaces
	lease int    // the number of the event lease in use
	onIt  int    // events that share it
}

// New prepares a generator. Nothing is generated before All is ranged over.
func New(o Options) *Generator {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Now.IsZero() {
		o.Now = DefaultNow
	}
	o.Now = o.Now.UTC().Truncate(time.Second)
	if len(o.Namespaces) == 0 {
		o.Namespaces = []string{"default"}
	}
	if o.EventsPerLease <= 0 {
		o.EventsPerLease = 1000
	}
	if o.HelmReleases > 0 && o.HelmRevisions <= 0 {
		o.HelmRevisions = 1
	}
	return &Generator{o: o}
}

func (g *Generator) reset() {
	g.rng = rand.New(rand.NewPCG(g.o.Seed, 0x6574636b)) //nolint:gosec // repeatable, not secret
	g.noise = make([]byte, 256<<10)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range g.noise {
		g.noise[i] = alphabet[g.rng.IntN(len(alphabet))]
	}
	g.scope, g.lease, g.onIt = 0, 0, 0
}

// All yields every object, the owners before what they own. Ranging twice yields the same twice.
func (g *Generator) All() iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		g.reset()
		for _, part := range []func(emit) bool{
			g.bookkeeping, g.namespaces, g.nodes, g.workloads, g.services, g.config, g.leaderLeases,
			g.cronJobs, g.jobs, g.customs, g.events,
		} {
			if !part(yield) {
				return
			}
		}
	}
}

// emit hands one object on and tells whether more are wanted.
type emit func(Object, error) bool

// Generate is New(o).All().
func Generate(o Options) iter.Seq2[Object, error] { return New(o).All() }

// uid is the uid of an object: a function of the seed and what names the object, so that owners can be referred to
// without being kept. The generation tells re-created objects of one name apart.
func (g *Generator) uid(resource, namespace, name string, generation int) types.UID {
	h := sha256.Sum256(fmt.Appendf(nil, "%d/%s/%s/%s/%d", g.o.Seed, resource, namespace, name, generation))
	h[6] = h[6]&0x0f | 0x40
	h[8] = h[8]&0x3f | 0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}

// suffix is the random end of a generated name, in the alphabet that Kubernetes uses.
func (g *Generator) suffix(n int) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[g.rng.IntN(len(alphabet))]
	}
	return string(b)
}

// text is n bytes of random text.
func (g *Generator) text(n int) []byte {
	out := make([]byte, 0, n)
	for len(out) < n {
		at := g.rng.IntN(len(g.noise))
		out = append(out, g.noise[at:min(len(g.noise), at+n-len(out))]...)
	}
	return out
}

// namespace is the next namespace in turn.
func (g *Generator) namespace() string {
	g.scope++
	return g.o.Namespaces[(g.scope-1)%len(g.o.Namespaces)]
}

// age is a time between youngest and oldest ago, in whole seconds as the API writes it.
func (g *Generator) age(youngest, oldest time.Duration) metav1.Time {
	span := int64(max(0, oldest-youngest) / time.Second)
	d := youngest
	if span > 0 {
		d += time.Duration(g.rng.Int64N(span)) * time.Second
	}
	return metav1.NewTime(g.o.Now.Add(-d).Truncate(time.Second))
}

func (g *Generator) bookkeeping(yield emit) bool {
	if !g.o.Bookkeeping {
		return true
	}
	for _, o := range []Object{
		{Key: "compact_rev_key", Name: "compact_rev_key", Value: []byte("1")},
		{Key: g.o.Prefix + "/health", Name: "health", Value: []byte(`{"health":"true"}`)},
	} {
		if !yield(o, nil) {
			return false
		}
	}
	return true
}
