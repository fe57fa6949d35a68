package splitter

import (
	"bytes"
	"fmt"
	"strings"
	"text/template"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// runbook is the plan for a person: each step with its check, and what going back costs.
func (p *Plan) runbook() []byte {
	var b bytes.Buffer
	t := template.Must(template.New("runbook").Funcs(template.FuncMap{
		"join":  strings.Join,
		"bytes": func(n *int64) string { return knownBytes(n) },
		"size":  func(n int64) string { return bytesize.Bytes(n).Human() },
		"rate":  func(f *float64) string { return known(f, "%.1f/s") },
		"secs": func(f *float64) string {
			if f == nil {
				return "–"
			}
			return seconds(*f)
		},
		"seconds": seconds,
		"ttl":     func(s float64) string { return (time.Duration(s) * time.Second).String() },
	}).Parse(runbookText))
	if err := t.Execute(&b, runbookData{p, p.Resources[0] == Events.String() && len(p.Resources) == 1}); err != nil {
		panic(fmt.Sprintf("the runbook's text does not fit its data: %v", err)) // constant text, constant type
	}
	return b.Bytes()
}

type runbookData struct {
	*Plan
	EventsOnly bool
}

// Member is the name of the shard's member on a host.
func (d runbookData) Member(h Host) string { return d.member(h) }

// Peer is a host's peer URL.
func (d runbookData) Peer(h Host) string { return "https://" + hostPort(h.Address, d.PeerPort) }

// ClientFiles are etcdctl's flags for the API server's own certificate.
func (d runbookData) ClientFiles() string { return d.way.clientFiles }

// Fixed tells an installer that starts the members itself.
func (d runbookData) Fixed() bool { return d.way.fixed }

// PrepareResources is the value of --resources.
func (d runbookData) PrepareResources() string {
	names := make([]string, len(d.Resources))
	for i, r := range d.Resources {
		gr, _ := ParseResource(r)
		names[i] = gr.Name()
	}
	return strings.Join(names, ",")
}

func known(f *float64, format string) string {
	if f == nil {
		return "–"
	}
	return fmt.Sprintf(format, *f)
}

func knownBytes(n *int64) string {
	if n == nil {
		return "–"
	}
	return bytesize.Bytes(*n).Human()
}

const runbookText = `# Move {{join .Resources ", "}} to {{.Name}}

Verdict at planning: **{{.Verdict}}**. {{.Reason}}

| | today | main afterwards | {{.Name}} |
|---|---|---|---|
| database | {{bytes .Before.DBSizeBytes}} | {{bytes .Main.DBSizeBytes}} | {{bytes .Shard.DBSizeBytes}} |
| writes | {{rate .Before.WritesPerSecond}} | {{rate .Main.WritesPerSecond}} | {{rate .Shard.WritesPerSecond}} |
| revisions | {{rate .Before.RevisionsPerSecond}} | {{rate .Main.RevisionsPerSecond}} | {{rate .Shard.RevisionsPerSecond}} |
| compaction | {{secs .Before.CompactionSeconds}} | {{secs .Main.CompactionSeconds}} | {{secs .Shard.CompactionSeconds}} |
| quota | {{bytes .Before.QuotaBytes}} | {{bytes .Main.QuotaBytes}} | {{size .QuotaBytes}} |

Each new member: {{.CPUMillis}}m CPU, {{size .MemoryBytes}} of memory, a disk of its own with {{size .VolumeBytes}}. The API servers compact the
shard as they do main; were none to, etcd itself keeps {{seconds .AutoCompactionSeconds}} of history.
{{range .Notes}}
- {{.}}{{end}}

## Before

- etcd and the API servers are healthy: ` + "`etcdkeeper status`" + `, and ` + "`/readyz?verbose`" + ` of every API server.
- A backup of main is at hand: it is the way back for everything else.
- No other Kubernetes cluster uses the new members. One etcd, one Kubernetes cluster.
- The new members' disks are not main's. On one disk the split buys nothing.
- Server and peer certificates of main's CA are in ` + "`{{.PKIDir}}`" + ` on each host, valid for its address. The API server
  has one CA, one client certificate and one prefix for all its etcd clusters: they cannot be others.
- The value is right: ` + "`etcdkeeper split lint \"$(cat etcd-servers-overrides.txt)\"`" + ` has no findings.
{{if .Rolling}}
## 1. Prepare the data directories

The new cluster must begin at a revision above main's. A client that watches from one of main's revisions is otherwise
taken for up to date by a cluster that has not got there yet, and hears nothing until it does. The directories are marked as
compacted up to there, so such a client is told at once that its revision is gone, and lists again.
{{else}}
## 1. Stop every API server

All at once: with some API servers on main and some on {{.Name}} there are two copies of {{join .Resources ", "}}, and for
leases two leaders. From here until step 4 the API is down; workloads keep running.

Check: ` + "`curl -k https://HOST:6443/livez`" + ` answers on no host. main's revision no longer moves (` + "`etcdkeeper status`" + `).

## 2. Prepare the data directories

From a snapshot taken now. The moved keys are copied with their revisions, everything else is left out; the revision is
set above main's and marked as compacted, so every client lists anew.
{{end}}
` + "```" + `
etcdctl --endpoints {{index .MainServers 0}} snapshot save main.db
{{- range .Hosts}}
etcdkeeper split prepare --snapshot main.db --resources {{$.PrepareResources}} --data-dir {{$.Name}}-{{.Name}}.data \
  --name {{$.Member .}} --initial-cluster '{{$.InitialCluster}}' \
  --initial-cluster-token {{$.Token}} --initial-advertise-peer-urls {{$.Peer .}}{{if $.MainServers}} --endpoints {{join $.MainServers ","}}{{end}}
{{- end}}
` + "```" + `

Prepare all members from the same snapshot, and with the same --revision that the first one shows. Copy each directory to
` + "`{{.DataDir}}`" + ` on its host (owner and mode as etcd wants them: 0700).

Check: each command shows the margin above main's revision, and exits with 0.

## {{if .Rolling}}2{{else}}3{{end}}. Start the new members
{{if not .Fixed}}
Copy ` + "`manifests/HOST/{{.Name}}.yaml`" + ` to ` + "`/etc/kubernetes/manifests/`" + ` on each host.
{{else if eq (print .Installer) "kops"}}
Merge ` + "`cluster-spec.yaml`" + ` into the cluster's spec (` + "`kops edit cluster`" + `). kOps starts and bootstraps its members itself, with
an empty database at revision 1, in a directory of its own making on the shard's volume (/mnt/master-vol-…/data/TOKEN). Before the
API servers use them, stop them and put the prepared directories there; where that is not possible, expect every client that
watches {{join .Resources ", "}} to hear nothing after step 3 until it is restarted.
{{else}}
Put the group variables into the inventory and run kubespray's etcd playbook. It bootstraps an empty cluster at revision 1: stop
` + "`etcd-events`" + ` on every host, replace ` + "`{{.DataDir}}`" + ` by the prepared directory, and start it again, before the API servers use it.
{{end}}
Check, with the API server's own certificate:
` + "```" + `
etcdctl --endpoints {{join .ShardServers ","}} \
  {{.ClientFiles}} endpoint health
etcdkeeper split verify --endpoints {{join .MainServers ","}} --shard {{join .ShardServers ","}} --resources {{.PrepareResources}} --before
` + "```" + `

## {{if .Rolling}}3. Restart the API servers, one by one{{else}}4. Start all API servers with the override{{end}}
{{if eq (print .Installer) "kubeadm"}}
Add ` + "`extraArgs`" + ` of ` + "`cluster-configuration.yaml`" + ` to the ClusterConfiguration (ConfigMap kubeadm-config), put
` + "`patches/kube-apiserver+json.json`" + ` into the --patches directory, and run on each control plane host:
` + "```" + `
kubeadm init phase control-plane apiserver --config CONFIG --patches PATCHES
` + "```" + `
{{else if eq (print .Installer) "static"}}
Apply ` + "`kube-apiserver.patch.json`" + ` to ` + "`/etc/kubernetes/manifests/kube-apiserver.yaml`" + ` on each host.
{{else if eq (print .Installer) "kubespray"}}
Run kubespray's control plane playbook with the group variables, one host at a time (` + "`--limit`" + `). They set the flag and patch the probes.
{{else}}
` + "`kops update cluster --yes`" + ` and ` + "`kops rolling-update cluster`" + ` with the control plane's instance groups. kOps sets the flag. Its probes ask ` + "`/livez`" + `
without an exclusion and cannot be changed by the cluster spec: a shard that is down restarts the API servers.
{{end}}
The flag, as it is then:
` + "```" + `
--etcd-servers-overrides={{.Override}}
` + "```" + `
{{if ne (print .Installer) "kops"}}The liveness and startup probes ask ` + "`/livez?exclude=etcd-override-0`" + `: with the plain path a shard that is down restarts every API
server.
{{end}}An API server that starts while the whole shard is down ends after some 20 s, whatever its probes ask, and is tried again until the
shard is back: never restart API servers then.

Check after each one: ` + "`/readyz?verbose`" + ` says ` + "`[+]etcd-override-0 ok`" + `, and ` + "`etcdkeeper split lint`" + ` has no findings in its manifest.
{{if .Rolling}}
While some API servers have the flag and some have not, each serves the events that were written through its like. Keep
that time short.
{{end}}
## {{if .Rolling}}4{{else}}5{{end}}. Verify

` + "```" + `
etcdkeeper split verify --endpoints {{join .MainServers ","}} --shard {{join .ShardServers ","}} --resources {{.PrepareResources}} --plan plan.json
` + "```" + `
It is green when new writes go to the shard only, the revisions are in order, both are compacted and no alarm is raised.
Again a day later, with ` + "`--watch 11m`" + ` so that a compaction is seen: it then compares the prediction with what is measured.

## {{if .Rolling}}5{{else}}6{{end}}. Clean up main
{{if .EventsOnly}}
The old events in main expire by themselves within {{ttl .EventTTL}}. After two compactions (10 minutes) more,
` + "`etcdkeeper defrag`" + ` gives their space back.
{{else}}
What was moved is still in main, unused. Keep it until a rollback is out of the question; ` + "`split verify`" + ` shows how much it is,
and ` + "`etcdkeeper clean plan`" + ` removes it by plan. Then ` + "`etcdkeeper defrag`" + `.
{{end}}
Load ` + "`alerts.yaml`" + ` into Prometheus, with job="{{.Name}}" for the new members.

## Going back
{{if .EventsOnly}}
Remove the flag and restart the API servers one by one. It costs the events written since the move: they stay in the shard.
main's revision is below the shard's, so a client that watches events from one of the shard's revisions hears nothing until
main gets there: restart what watches events for long (controllers that consume events, event exporters).
{{else}}
Stop **all** API servers. What was written since the move is in the shard alone and must be copied back, key by key, into
main before they start without the flag. main's revision is below the shard's: every client that watches the moved resources
must be restarted (for pods: kubelets, scheduler, controller manager), or it hears nothing until main gets there. Leases may be
left behind: nodes and leaders renew them within seconds. Pods must not.
{{end}}`
