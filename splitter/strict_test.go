package splitter

import (
	"encoding/json"
	"testing"

	"sigs.k8s.io/yaml"
)

// The installers' formats as far as a plan uses them, by their public definitions: a field that is not theirs fails.
type (
	// kubeadm.k8s.io/v1beta4
	kubeadmConfiguration struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		APIServer  struct {
			ExtraArgs []struct {
				Name  string `json:"name"`
				Value string `json:"value"`
			} `json:"extraArgs"`
		} `json:"apiServer"`
	}
	// kops.k8s.io/v1alpha2
	kopsCluster struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			EtcdClusters []struct {
				Name          string `json:"name"`
				Version       string `json:"version"`
				CPURequest    string `json:"cpuRequest"`
				MemoryRequest string `json:"memoryRequest"`
				Manager       struct {
					Env []struct {
						Name  string `json:"name"`
						Value string `json:"value"`
					} `json:"env"`
				} `json:"manager"`
				Members []struct {
					Name            string `json:"name"`
					InstanceGroup   string `json:"instanceGroup"`
					EncryptedVolume bool   `json:"encryptedVolume"`
					VolumeSize      int32  `json:"volumeSize"`
				} `json:"etcdMembers"`
			} `json:"etcdClusters"`
		} `json:"spec"`
	}
	// kubespray's group variables
	kubesprayVars struct {
		Events    bool              `json:"etcd_events_cluster_enabled"`
		Quota     string            `json:"etcd_quota_backend_bytes"`
		ExtraArgs map[string]string `json:"kube_kubeadm_apiserver_extra_args"`
		Patches   []struct {
			Target string `json:"target"`
			Type   string `json:"type"`
			Patch  any    `json:"patch"`
		} `json:"kubeadm_patches"`
	}
	// RFC 6902
	jsonPatch []struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value"`
	}
	// Prometheus' rule file
	alertRules struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
)

// Every file of a plan that is a document is strictly what its reader takes; pods are in TestPlan_Files.
func TestPlan_StrictDecoding(t *testing.T) {
	for _, installer := range Installers() {
		for _, resource := range []string{"events", "leases"} {
			p, err := NewPlan(evidence(func(*Evidence) {}), DefaultPolicy(), planOptions(installer, resource))
			if err != nil {
				t.Fatal(err)
			}
			files, err := p.Files()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				var into any
				switch f.Name {
				case "cluster-configuration.yaml":
					into = &kubeadmConfiguration{}
				case "cluster-spec.yaml":
					into = &kopsCluster{}
				case "group_vars/all/" + p.Name + ".yml":
					into = &kubesprayVars{}
				case "kube-apiserver.patch.json", "patches/kube-apiserver+json.json":
					into = &jsonPatch{}
				case "alerts.yaml":
					into = &alertRules{}
				case "plan.json":
					into = &Plan{}
				default:
					continue
				}
				if err := yaml.UnmarshalStrict(f.Data, into); err != nil {
					t.Errorf("%s %s: %s: %v", installer, resource, f.Name, err)
				}
				if f.Name == "cluster-spec.yaml" {
					c := into.(*kopsCluster).Spec.EtcdClusters[0]
					if c.Name != resource || c.Manager.Env[0].Name != "ETCD_QUOTA_BACKEND_BYTES" || len(c.Members) != 3 {
						data, _ := json.Marshal(c)
						t.Errorf("kops: got %s", data)
					}
				}
			}
		}
	}
}
