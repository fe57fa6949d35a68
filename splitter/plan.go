package splitter

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// Installer is how the control plane was set up.
type Installer string

// Installers that a plan can be written for.
const (
	StaticPods Installer = "static" // static pods, kept by hand
	Kubeadm    Installer = "kubeadm"
	Kops       Installer = "kops"
	Kubespray  Installer = "kubespray"
)

// Installers lists them.
func Installers() []Installer { return []Installer{StaticPods, Kubeadm, Kops, Kubespray} }

// Host is a machine for one new member.
type Host struct {
	Name    string `json:"name"`
	Address string `json:"address"` // IP address or DNS name, as the API servers reach it
}

// PlanOptions are what a plan is made for.
type PlanOptions struct {
	Resources  []string
	Installer  Installer
	Hosts      []Host
	OnMain     bool   // Hosts are main's own machines
	ClientPort int    // 0: the installer's
	PeerPort   int    // 0: the installer's
	Version    string // of etcd, main's
	MainURLs   []string
	DataDir    string // of the new members; "": the installer's
	PKIDir     string // where CA, server and peer certificate are on the hosts; "": the installer's
}

const (
	shardMetricsPort   = 2385
	defaultEtcdVersion = "3.6.16"
)

// Plan is a split that can be carried out. It is data: WriteTo makes the files of it.
type Plan struct {
	Version      int       `json:"version"`
	Resources    []string  `json:"resources"` // group/resource
	Name         string    `json:"name"`      // of the shard: etcd-events
	Installer    Installer `json:"installer"`
	Hosts        []Host    `json:"hosts"`
	Override     string    `json:"override"` // the value of --etcd-servers-overrides
	MainServers  []string  `json:"mainServers"`
	ShardServers []string  `json:"shardServers"`
	EtcdVersion  string    `json:"etcdVersion"`
	QuotaBytes   int64     `json:"quotaBytes"`
	MemoryBytes  int64     `json:"memoryBytes"`
	CPUMillis    int64     `json:"cpuMillis"`
	VolumeBytes  int64     `json:"volumeBytes"`
	// AutoCompactionSeconds is etcd's own --auto-compaction-retention: a net below the API servers' compaction.
	AutoCompactionSeconds float64    `json:"autoCompactionSeconds"`
	InitialCluster        string     `json:"initialCluster"`
	Token                 string     `json:"initialClusterToken"`
	DataDir               string     `json:"dataDir"`
	PKIDir                string     `json:"pkiDir"`
	ClientPort            int        `json:"clientPort"`
	PeerPort              int        `json:"peerPort"`
	Verdict               Verdict    `json:"verdict"`
	Reason                string     `json:"reason"`
	Before                Prediction `json:"before"`
	Main                  Prediction `json:"main"`
	Shard                 Prediction `json:"shard"`
	EventTTL              float64    `json:"eventTTLSeconds"`
	Rolling               bool       `json:"rolling"` // API servers are restarted one by one; else all are stopped together
	Notes                 []string   `json:"notes"`
	Findings              []Finding  `json:"findings"` // of the linter, about the override

	way way
}

const planVersion = 1

// NewPlan plans the move. The evidence and the policy size the new members; where the evidence has no sizes, the
// smallest are taken and a note says so.
func NewPlan(e Evidence, p Policy, o PlanOptions) (*Plan, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	moved, err := movedResources(o.Resources)
	if err != nil {
		return nil, err
	}
	way, err := wayOf(o.Installer, moved)
	if err != nil {
		return nil, err
	}
	if err := way.settle(&o); err != nil {
		return nil, err
	}
	plan := &Plan{Version: planVersion, Installer: o.Installer, Hosts: o.Hosts, MainServers: o.MainURLs, EtcdVersion: o.Version,
		PKIDir: o.PKIDir, ClientPort: o.ClientPort, PeerPort: o.PeerPort, EventTTL: e.EventTTL.Or(p.EventTTL.Seconds()),
		Rolling: true, Notes: slices.Clone(e.Notes)}
	names := make([]string, len(moved))
	for i, gr := range moved {
		names[i] = gr.Name()
		plan.Resources = append(plan.Resources, gr.String())
		plan.Rolling = plan.Rolling && gr == Events
	}
	plan.Name, plan.DataDir = "etcd-"+moved[0].Resource, o.DataDir
	if plan.DataDir == "" {
		plan.DataDir = "/var/lib/" + plan.Name
	}
	plan.Token, plan.way = way.token, way
	if plan.Token == "" {
		plan.Token = plan.Name + "-1"
	}
	var overrides []Override
	var initial []string
	for _, h := range o.Hosts {
		plan.ShardServers = append(plan.ShardServers, fmt.Sprintf("https://%s", hostPort(h.Address, o.ClientPort)))
		initial = append(initial, fmt.Sprintf("%s=https://%s", plan.member(h), hostPort(h.Address, o.PeerPort)))
	}
	plan.InitialCluster = strings.Join(initial, ",")
	servers := plan.ShardServers
	if way.loopback {
		servers = []string{fmt.Sprintf("https://127.0.0.1:%d", o.ClientPort)}
	}
	for _, gr := range moved {
		overrides = append(overrides, Override{Resource: gr.String(), Servers: servers})
	}
	plan.Override = FormatOverrides(overrides)
	plan.Findings = LintValue(plan.Override, LintOptions{MainServers: o.MainURLs}).Findings
	plan.size(e, p, names)
	plan.Notes = append(plan.Notes, way.notes...)
	if o.OnMain {
		plan.Notes = append(plan.Notes, "the new members are on the machines of main's: give each a disk of its own, or the split buys nothing; --host names other machines")
	}
	if len(o.Hosts) < 3 {
		plan.Notes = append(plan.Notes, fmt.Sprintf("%d members: the shard stops with the first one that fails; three stand one failure", len(o.Hosts)))
	}
	return plan, nil
}

// size takes the members' sizes from the predictions of all moved resources together.
func (p *Plan) size(e Evidence, policy Policy, names []string) {
	judged := policy
	judged.Resources = names
	proposal := Propose(e, judged)
	p.Verdict, p.Reason = proposal.Verdict, proposal.Reason
	m := newModel(e, policy)
	together := mergeResources(e, names)
	m.e = together
	p.Before = proposal.Before
	p.Main, p.Shard = m.after(mergedName)
	size := int64(0)
	if p.Shard.DBSizeBytes != nil {
		size = *p.Shard.DBSizeBytes
	} else {
		p.Notes = append(p.Notes, "no sizes were measured: the members have the smallest sizes; plan again with --endpoints or --snapshot")
	}
	p.QuotaBytes = m.shardQuota(size)
	// A member maps its whole database, and needs as much again while it defragments or sends a snapshot's pages.
	const step = int64(64 * bytesize.MiB)
	p.MemoryBytes = min(max((2*size/step+1)*step+int64(128*bytesize.MiB), int64(256*bytesize.MiB)), int64(16*bytesize.GiB))
	p.CPUMillis = 100
	if w := p.Shard.WritesPerSecond; w != nil {
		p.CPUMillis = min(100+int64(*w/100)*50, 2000) // some 0.5 ms of CPU a write
	}
	p.AutoCompactionSeconds = autoCompaction(together.find(mergedName), p.QuotaBytes, policy.CompactEvery).Seconds()
	// Database, a copy while it is defragmented, the write-ahead log (five segments and the next) and snapshots.
	p.VolumeBytes = (2*p.QuotaBytes/int64(bytesize.GiB) + 2) * int64(bytesize.GiB)
}

// Bounds of autoCompaction: four of the API server's intervals, so that it never comes before it, and the eight hours
// that installers give where nothing compacts (kubespray's etcd_compaction_retention).
const (
	leastCompactIntervals = 4
	longestCompaction     = 8 * time.Hour
)

// autoCompaction is how long etcd itself lets history lie where no API server compacts the shard: until it takes a
// quarter of the quota, within the bounds. Without rates it is an hour.
func autoCompaction(r ResourceEvidence, quota int64, every time.Duration) time.Duration {
	least := leastCompactIntervals * every
	if r.WriteBytesPerSecond == nil || r.WriteBytesPerSecond.Value <= 0 {
		return max(least, time.Hour)
	}
	perSecond := r.WriteBytesPerSecond.Value + r.WritesPerSecond.Or(0)*entryOverhead
	seconds := min(float64(quota)/4*fill(entrySize(r))/perSecond, longestCompaction.Seconds())
	return max(least, time.Duration(seconds/60)*time.Minute)
}

const mergedName = "moved"

// mergeResources makes the named resources one.
func mergeResources(e Evidence, names []string) Evidence {
	out := e
	out.Resources = nil
	all := ResourceEvidence{Resource: mergedName}
	for _, r := range e.Resources {
		if !slices.Contains(names, r.Resource) {
			out.Resources = append(out.Resources, r)
			continue
		}
		for _, f := range []struct {
			to   **Figure
			from *Figure
		}{{&all.Keys, r.Keys}, {&all.Bytes, r.Bytes}, {&all.LeasedKeys, r.LeasedKeys}, {&all.Revisions, r.Revisions}, {&all.HistoryBytes, r.HistoryBytes},
			{&all.WritesPerSecond, r.WritesPerSecond}, {&all.WriteBytesPerSecond, r.WriteBytesPerSecond}, {&all.CreatesPerSecond, r.CreatesPerSecond},
			{&all.DeletesPerSecond, r.DeletesPerSecond}, {&all.RevokesPerSecond, r.RevokesPerSecond}} {
			*f.to = sum(*f.to, f.from)
		}
	}
	out.Resources = append(out.Resources, all)
	return out
}

func (o *PlanOptions) complete() error {
	var errs []error
	if len(o.Resources) == 0 {
		errs = append(errs, errors.New("no resource is to be moved: give --resources, such as events"))
	}
	if !slices.Contains(Installers(), o.Installer) {
		errs = append(errs, fmt.Errorf("installer %q: want one of static, kubeadm, kops, kubespray", o.Installer))
	}
	if len(o.Hosts) == 0 {
		errs = append(errs, errors.New("no host for the new members: give --host NAME=ADDRESS for each, three of them"))
	}
	seen := map[string]bool{}
	for _, h := range o.Hosts {
		if h.Name == "" || h.Address == "" || strings.ContainsAny(h.Name+h.Address, " ,;#=/") {
			errs = append(errs, fmt.Errorf("host %q=%q: want NAME=ADDRESS with an IP address or a DNS name", h.Name, h.Address))
		}
		if seen[h.Name] || seen[h.Address] {
			errs = append(errs, fmt.Errorf("host %s=%s is given twice: each member wants a machine of its own", h.Name, h.Address))
		}
		seen[h.Name], seen[h.Address] = true, true
	}
	if o.Version == "" {
		o.Version = defaultEtcdVersion
	}
	if o.DataDir != "" && !filepath.IsAbs(o.DataDir) {
		errs = append(errs, fmt.Errorf("data directory %q: want an absolute path", o.DataDir))
	}
	return errors.Join(errs...)
}

// movedResources are the resources by name, each once.
func movedResources(names []string) (moved []GroupResource, err error) {
	for _, r := range names {
		gr, ok := ParseResource(r)
		if !ok {
			return nil, fmt.Errorf("resource %q: overrides move only what kube-apiserver itself stores, such as events, leases or pods", r)
		}
		if !slices.Contains(moved, gr) {
			moved = append(moved, gr)
		}
	}
	return moved, nil
}

// member is the name of the shard's member on a host.
func (p *Plan) member(h Host) string { return p.way.member(p.Name, h) }

func hostPort(host string, port int) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return fmt.Sprintf("[%s]:%d", host, port)
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// exclusion is the query that the API servers' probes need.
func (p *Plan) exclusion() string { return "exclude=etcd-override-0" }

// JSON is the plan for split verify and other programs.
func (p *Plan) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(p, "", "  ")
	return append(data, '\n'), err
}

// ReadPlan reads what JSON wrote.
func ReadPlan(data []byte) (*Plan, error) {
	var p Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	if p.Version != planVersion {
		return nil, fmt.Errorf("read plan: its version is %d, this program's is %d", p.Version, planVersion)
	}
	moved, err := movedResources(p.Resources)
	if err == nil {
		p.way, err = wayOf(p.Installer, moved)
	}
	if err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	return &p, nil
}
