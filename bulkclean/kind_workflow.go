package bulkclean

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

var workflowKind = &Kind{
	Name:       "workflows.argoproj.io",
	Resource:   kube.Resource{Group: "argoproj.io", Version: "v1alpha1", Plural: "workflows", Custom: true},
	dir:        "argoproj.io/workflows",
	object:     "Workflow",
	json:       workflowFacts,
	dependents: "pods",
	cause:      "set spec.ttlStrategy in the Workflows it creates, or workflowDefaults in the controller's ConfigMap",
}

// workflowFacts reads an Argo Workflow.
func workflowFacts(f *Facts, text []byte) error {
	var w struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     struct {
			Suspend     bool `json:"suspend"`
			TTLStrategy *struct {
				AfterCompletion *int32 `json:"secondsAfterCompletion"`
				AfterSuccess    *int32 `json:"secondsAfterSuccess"`
				AfterFailure    *int32 `json:"secondsAfterFailure"`
			} `json:"ttlStrategy"`
		} `json:"spec"`
		Status struct {
			Phase      string      `json:"phase"`
			FinishedAt metav1.Time `json:"finishedAt"`
		} `json:"status"`
	}
	if err := json.Unmarshal(text, &w); err != nil {
		return fmt.Errorf("JSON: %w", err)
	}
	f.fromMeta(&w.Metadata)
	f.Suspended = w.Spec.Suspend
	switch w.Status.Phase {
	case "Succeeded":
		f.State = Complete
	case "Failed", "Error":
		f.State = Failed
	default:
		return nil
	}
	f.FinishedAt = w.Status.FinishedAt.UTC()
	if f.archiving == "Pending" {
		f.Unsettled = "it is not archived yet"
	}
	if s := w.Spec.TTLStrategy; s != nil {
		// As the workflow controller reads it: the one for the way it ended, else the general one.
		ttl := s.AfterCompletion
		if f.State == Complete && s.AfterSuccess != nil {
			ttl = s.AfterSuccess
		}
		if f.State == Failed && s.AfterFailure != nil {
			ttl = s.AfterFailure
		}
		if ttl != nil {
			f.HasTTL, f.TTL = true, time.Duration(*ttl)*time.Second
		}
	}
	return nil
}
