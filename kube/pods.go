package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var pods = Resource{Version: "v1", Plural: "pods"}

// Pod reads a pod.
func (c *Client) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	raw, err := c.Get(ctx, pods, namespace, name, JSON)
	if err != nil {
		return nil, fmt.Errorf("read pod %s/%s: %w", namespace, name, err)
	}
	return decodePod(raw, namespace, name)
}

func decodePod(raw []byte, namespace, name string) (*corev1.Pod, error) {
	pod := new(corev1.Pod)
	if err := json.Unmarshal(raw, pod); err != nil {
		return nil, fmt.Errorf("read pod %s/%s: %w", namespace, name, err)
	}
	if pod.Kind != "Pod" {
		return nil, fmt.Errorf("read pod %s/%s: the API server sent a %q", namespace, name, pod.Kind)
	}
	return pod, nil
}

// Resize changes the resources of one container in place, through the pod's
// resize subresource (Kubernetes 1.33 and later). The uid guards against another
// pod of the same name. What the kubelet makes of it is in the pod's status
// afterwards.
func (c *Client) Resize(ctx context.Context, namespace, name string, uid types.UID, container string, r corev1.ResourceRequirements) (*corev1.Pod, error) {
	patch := map[string]any{
		"metadata": map[string]any{"uid": uid},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": container, "resources": r}}},
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("resize pod %s/%s: %w", namespace, name, err)
	}
	raw, err := c.do(ctx, c.rest.Patch(types.StrategicMergePatchType).AbsPath(pods.Path(namespace, name)+"/resize").
		SetHeader("Accept", JSON).Body(body))
	if err != nil {
		return nil, fmt.Errorf("resize pod %s/%s: %w", namespace, name, err)
	}
	return decodePod(raw, namespace, name)
}

// Event tells of something that concerns a pod; warning makes it one.
func (c *Client) Event(ctx context.Context, pod *corev1.Pod, warning bool, reason, message string) error {
	now := metav1.NewTime(time.Now())
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	const maxMessage = 1024 // the API server's bound
	if len(message) > maxMessage {
		message = message[:maxMessage-3] + "..."
	}
	body, err := json.Marshal(corev1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: pod.Name + "."},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		},
		Reason: reason, Message: message, Type: kind, Source: corev1.EventSource{Component: "etcdkeeper"},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if err != nil {
		return fmt.Errorf("send an event of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err := c.Create(ctx, Resource{Version: "v1", Plural: "events"}, pod.Namespace, body); err != nil {
		return fmt.Errorf("send an event of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// IsRefused tells whether the API server understood the request and will refuse
// it again: forbidden, invalid, or not served at all.
func IsRefused(err error) bool {
	return IsDenied(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) || IsNotFound(err)
}
