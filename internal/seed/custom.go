package seed

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CustomSet is a number of custom resources alike, named STEM- and a random end.
type CustomSet struct {
	Group, Version, Kind, Resource string // Resource is the plural

	Namespace string // empty: cluster-scoped; for Workflows and SparkApplications the namespaces in turn
	Stem      string
	Count     int
	Bytes     int    // more bytes in each, in its status
	Phase     string // status.phase, or status.applicationState.state; as finished where empty

	Youngest, Oldest time.Duration // how long ago they ended; 24 h to 60 days where both are 0
}

func (g *Generator) customs(yield emit) bool {
	for _, s := range g.o.Workflows {
		s.Group, s.Version, s.Kind, s.Resource = "argoproj.io", "v1alpha1", "Workflow", "workflows"
		if !g.customSet(s, g.workflow, yield) {
			return false
		}
	}
	for _, s := range g.o.SparkApplications {
		s.Group, s.Version, s.Kind, s.Resource = "sparkoperator.k8s.io", "v1beta2", "SparkApplication", "sparkapplications"
		if !g.customSet(s, g.sparkApplication, yield) {
			return false
		}
	}
	for _, s := range g.o.Custom {
		if !g.customSet(s, g.plain, yield) {
			return false
		}
	}
	return true
}

type customBody func(s CustomSet, m *metav1.ObjectMeta, started, ended metav1.Time) map[string]any

func (g *Generator) customSet(s CustomSet, body customBody, yield emit) bool {
	if s.Youngest == 0 && s.Oldest == 0 {
		s.Youngest, s.Oldest = 24*time.Hour, 60*24*time.Hour
	}
	inTurn := s.Namespace == "" && (s.Kind == "Workflow" || s.Kind == "SparkApplication")
	for i := range s.Count {
		if inTurn {
			s.Namespace = g.namespace()
		}
		ended := g.age(s.Youngest, s.Oldest)
		started := metav1.NewTime(ended.Add(-time.Duration(60+g.rng.IntN(600)) * time.Second))
		m := g.meta(s.Resource, s.Namespace, fmt.Sprintf("%s-%s%05d", s.Stem, g.suffix(5), i), started)
		m.Generation = 1
		content := body(s, &m, started, ended)
		content["apiVersion"], content["kind"] = s.Group+"/"+s.Version, s.Kind
		if !yield(g.custom(s.Group, s.Resource, m, content)) {
			return false
		}
	}
	return true
}

func rfc3339(t metav1.Time) string { return t.UTC().Format(time.RFC3339) }

func (g *Generator) workflow(s CustomSet, m *metav1.ObjectMeta, started, ended metav1.Time) map[string]any {
	phase := s.Phase
	if phase == "" {
		phase = "Succeeded"
	}
	finished := phase == "Succeeded" || phase == "Failed" || phase == "Error"
	m.GenerateName = s.Stem + "-"
	m.Labels = map[string]string{"workflows.argoproj.io/phase": phase, "workflows.argoproj.io/completed": fmt.Sprint(finished)}
	status := map[string]any{
		"phase": phase, "startedAt": rfc3339(started), "progress": "1/1",
		"nodes": map[string]any{m.Name: map[string]any{
			"id": m.Name, "name": m.Name, "displayName": m.Name, "type": "Pod", "phase": phase, "templateName": "main",
			"startedAt": rfc3339(started),
		}},
	}
	if finished {
		status["finishedAt"] = rfc3339(ended)
		status["conditions"] = []map[string]any{{"type": "Completed", "status": "True"}}
	} else {
		status["finishedAt"] = nil
	}
	if s.Bytes > 0 {
		status["compressedNodes"] = string(g.text(s.Bytes))
	}
	return map[string]any{
		"spec": map[string]any{
			"entrypoint": "main",
			"templates": []map[string]any{{
				"name":      "main",
				"container": map[string]any{"image": "registry.example/team/" + s.Stem + ":v1", "command": []string{"/app/" + s.Stem}},
			}},
		},
		"status": status,
	}
}

func (g *Generator) sparkApplication(s CustomSet, _ *metav1.ObjectMeta, started, ended metav1.Time) map[string]any {
	state := s.Phase
	if state == "" {
		state = "COMPLETED"
	}
	status := map[string]any{
		"applicationState":          map[string]any{"state": state},
		"sparkApplicationId":        "spark-" + strings.ToLower(g.suffix(16)),
		"submissionID":              g.uid("submission", s.Namespace, s.Stem, g.rng.IntN(1<<30)),
		"lastSubmissionAttemptTime": rfc3339(started),
		"executionAttempts":         1,
		"submissionAttempts":        1,
	}
	if state == "COMPLETED" || state == "FAILED" {
		status["terminationTime"] = rfc3339(ended)
	} else {
		status["terminationTime"] = nil
	}
	if s.Bytes > 0 {
		status["applicationState"].(map[string]any)["errorMessage"] = string(g.text(s.Bytes))
	}
	return map[string]any{
		"spec": map[string]any{
			"type": "Scala", "mode": "cluster", "sparkVersion": "4.0.0",
			"image":               "registry.example/team/spark:4.0.0",
			"mainClass":           "com.example." + s.Stem,
			"mainApplicationFile": "local:///opt/spark/jars/" + s.Stem + ".jar",
			"driver":              map[string]any{"cores": 1, "memory": "512m", "serviceAccount": "spark"},
			"executor":            map[string]any{"cores": 1, "instances": 2, "memory": "512m"},
		},
		"status": status,
	}
}

func (g *Generator) plain(s CustomSet, _ *metav1.ObjectMeta, _, ended metav1.Time) map[string]any {
	phase := s.Phase
	if phase == "" {
		phase = "Ready"
	}
	return map[string]any{
		"spec":   map[string]any{"replicas": 1, "payload": string(g.text(orDefault(s.Bytes, 512)))},
		"status": map[string]any{"phase": phase, "lastTransitionTime": rfc3339(ended)},
	}
}
