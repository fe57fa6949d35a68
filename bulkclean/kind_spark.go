package bulkclean

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

var sparkKind = &Kind{
	Name:       "sparkapplications.sparkoperator.k8s.io",
	Resource:   kube.Resource{Group: "sparkoperator.k8s.io", Version: "v1beta2", Plural: "sparkapplications", Custom: true},
	dir:        "sparkoperator.k8s.io/sparkapplications",
	object:     "SparkApplication",
	json:       sparkFacts,
	dependents: "pods",
	cause:      "set spec.timeToLiveSeconds in the SparkApplications it creates",
}

// sparkFacts reads a SparkApplication. COMPLETED and FAILED are its terminal states; with the restart policy Always
// COMPLETED is not one.
func sparkFacts(f *Facts, text []byte) error {
	var s struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     struct {
			Suspend       bool   `json:"suspend"`
			TTL           *int64 `json:"timeToLiveSeconds"`
			RestartPolicy struct {
				Type string `json:"type"`
			} `json:"restartPolicy"`
		} `json:"spec"`
		Status struct {
			State struct {
				State string `json:"state"`
			} `json:"applicationState"`
			TerminationTime metav1.Time `json:"terminationTime"`
			SubmissionTime  metav1.Time `json:"lastSubmissionAttemptTime"`
		} `json:"status"`
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("JSON: %w", err)
	}
	f.fromMeta(&s.Metadata)
	f.Suspended = s.Spec.Suspend
	switch s.Status.State.State {
	case "COMPLETED":
		f.State = Complete
	case "FAILED":
		f.State = Failed
	default:
		return nil
	}
	f.FinishedAt = s.Status.TerminationTime.UTC()
	if s.Status.TerminationTime.IsZero() {
		f.FinishedAt = s.Status.SubmissionTime.UTC() // its submission failed: it never ran
	}
	if s.Spec.RestartPolicy.Type == "Always" {
		f.Unsettled = "its restart policy is Always: it is started again"
	}
	if s.Spec.TTL != nil {
		f.HasTTL, f.TTL = true, time.Duration(*s.Spec.TTL)*time.Second
	}
	return nil
}
