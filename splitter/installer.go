package splitter

import (
	"errors"
	"fmt"
	"slices"
)

// way is how an installer sets up and names the shard's members.
type way struct {
	clientPort, peerPort int
	fixed                bool // the installer starts the members itself: its ports, names and directories are given
	// loopback is for an installer whose API servers ask the member on their own machine.
	loopback bool
	token    string
	dataDir  string
	pkiDir   string
	// Files under pkiDir; HOST in them stands for a host's name.
	ca, serverCert, serverKey, peerCert, peerKey string
	// clientFiles are etcdctl's flags with the certificate by which the API server asks etcd.
	clientFiles string
	member      func(shard string, h Host) string
	notes       []string
}

// Ports and directories of members that are set up by hand or by kubeadm: the ports are kubespray's for its events
// cluster, the directory is kubeadm's.
const (
	ownClientPort = 2383
	ownPeerPort   = 2382
	kubeadmPKI    = "/etc/kubernetes/pki/etcd"
	kubesprayPKI  = "/etc/ssl/etcd/ssl"
	kopsPKI       = "/srv/kubernetes/kube-apiserver"
)

// wayOf tells how the installer moves the resources. Its formats are those of kubeadm v1beta4, kOps 1.36
// (pkg/wellknownports, pkg/model/components/apiserver.go, nodeup/pkg/model/kube_apiserver.go) and kubespray 2.31
// (roles/etcd, roles/kubespray_defaults).
func wayOf(i Installer, moved []GroupResource) (way, error) {
	own := way{clientPort: ownClientPort, peerPort: ownPeerPort, pkiDir: kubeadmPKI,
		ca: "ca.crt", serverCert: "server.crt", serverKey: "server.key", peerCert: "peer.crt", peerKey: "peer.key",
		clientFiles: "--cacert " + kubeadmPKI + "/ca.crt --cert /etc/kubernetes/pki/apiserver-etcd-client.crt --key /etc/kubernetes/pki/apiserver-etcd-client.key",
		member:      func(shard string, h Host) string { return shard + "-" + h.Name }}
	events := slices.Equal(moved, []GroupResource{Events})
	switch i {
	case Kops:
		w := way{clientPort: 4002, peerPort: 2381, fixed: true, loopback: true, pkiDir: kopsPKI,
			clientFiles: "--cacert " + kopsPKI + "/etcd-ca.crt --cert " + kopsPKI + "/etcd-client.crt --key " + kopsPKI + "/etcd-client.key",
			member:      own.member,
			notes: []string{
				"kOps writes --etcd-servers-overrides itself, from the clusters' names; a value under kubeAPIServer is overwritten",
				"kOps' probes of kube-apiserver ask /livez without an exclusion, and the cluster spec cannot change it: a shard that is down restarts the API servers",
			}}
		if slices.Equal(moved, []GroupResource{Leases}) {
			w.clientPort, w.peerPort = 4004, 2383
		} else if !events {
			return w, errors.New("kOps has shards for events and for leases only, each in a cluster of its own (etcdClusters events, leases): plan one of them, or another installer")
		}
		return w, nil
	case Kubespray:
		w := own
		w.pkiDir, w.ca = kubesprayPKI, "ca.pem"
		w.serverCert, w.serverKey = "member-HOST.pem", "member-HOST-key.pem"
		w.peerCert, w.peerKey = w.serverCert, w.serverKey
		w.clientFiles = "--cacert " + kubesprayPKI + "/ca.pem --cert " + kubesprayPKI + "/node-$(hostname).pem --key " + kubesprayPKI + "/node-$(hostname)-key.pem"
		if events { // kubespray makes no other shard
			w.fixed, w.token, w.dataDir = true, "k8s_events_etcd", "/var/lib/etcd-events"
			w.member = func(_ string, h Host) string { return h.Name + "-events" }
			w.notes = []string{"kubespray runs the events members on the hosts of its group etcd, named NAME-events after etcd_member_name (etcd1, etcd2, …): give these names with --host"}
		}
		return w, nil
	}
	return own, nil
}

// settle fills the options from the installer's and refuses what it would not do.
func (w way) settle(o *PlanOptions) error {
	var errs []error
	port := func(what string, given *int, of int) {
		if *given == 0 {
			*given = of
		}
		if w.fixed && *given != of {
			errs = append(errs, fmt.Errorf("%s port %d: %s uses %d", what, *given, o.Installer, of))
		}
	}
	port("client", &o.ClientPort, w.clientPort)
	port("peer", &o.PeerPort, w.peerPort)
	if o.ClientPort == o.PeerPort || min(o.ClientPort, o.PeerPort) < 1 || max(o.ClientPort, o.PeerPort) > 65535 {
		errs = append(errs, fmt.Errorf("ports %d and %d: want two different ones for clients and peers", o.ClientPort, o.PeerPort))
	}
	if o.PKIDir == "" {
		o.PKIDir = w.pkiDir
	}
	if o.DataDir == "" {
		o.DataDir = w.dataDir
	}
	if o.Installer == Kops && len(o.Hosts)%2 == 0 {
		errs = append(errs, fmt.Errorf("%d hosts: kOps wants an odd number of members", len(o.Hosts)))
	}
	return errors.Join(errs...)
}
