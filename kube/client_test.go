package kube

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

func newTestClient(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient_Delete_body(t *testing.T) {
	jobs := Resource{Group: "batch", Version: "v1", Plural: "jobs"}
	for _, tc := range []struct {
		name string
		res  Resource
		path string
	}{
		{"protobuf", jobs, "/apis/batch/v1/namespaces/ns/jobs/a"},
		{"json", Resource{Group: "argoproj.io", Version: "v1alpha1", Plural: "workflows", Custom: true},
			"/apis/argoproj.io/v1alpha1/namespaces/ns/workflows/a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got metav1.DeleteOptions
			var method, path string
			c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
				method, path = r.Method, r.URL.Path
				body, _ := io.ReadAll(r.Body)
				switch r.Header.Get("Content-Type") {
				case Protobuf:
					var u runtime.Unknown
					if err := u.Unmarshal(body[4:]); err != nil {
						t.Errorf("envelope: %v", err)
					}
					if err := got.Unmarshal(u.Raw); err != nil {
						t.Errorf("options: %v", err)
					}
				case JSON:
					if err := json.Unmarshal(body, &got); err != nil {
						t.Errorf("options: %v", err)
					}
				}
				w.Header().Set("Content-Type", JSON)
				io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
			})
			if err := c.Delete(context.Background(), tc.res, "ns", "a", Preconditions{UID: "u-1", ResourceVersion: "42"}); err != nil {
				t.Fatal(err)
			}
			if method != http.MethodDelete || path != tc.path {
				t.Errorf("got %s %s, want DELETE %s", method, path, tc.path)
			}
			if got.PropagationPolicy == nil || *got.PropagationPolicy != metav1.DeletePropagationBackground {
				t.Errorf("got propagation policy %v, want Background", got.PropagationPolicy)
			}
			if p := got.Preconditions; p == nil || p.UID == nil || *p.UID != "u-1" || p.ResourceVersion == nil || *p.ResourceVersion != "42" {
				t.Errorf("got preconditions %v, want uid u-1 and resource version 42", p)
			}
		})
	}
}

func TestClient_errors(t *testing.T) {
	status := func(code int, reason string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", JSON)
			w.WriteHeader(code)
			json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: int32(code), Reason: metav1.StatusReason(reason)})
		}
	}
	for _, tc := range []struct {
		name                                            string
		handler                                         http.HandlerFunc
		notFound, conflict, denied, transient, overload bool
		wait                                            time.Duration
	}{
		{name: "not found", handler: status(404, "NotFound"), notFound: true},
		{name: "a proxy's not found", handler: http.NotFound},
		{name: "conflict", handler: status(409, "Conflict"), conflict: true},
		{name: "forbidden", handler: status(403, "Forbidden"), denied: true},
		{name: "unauthorized", handler: status(401, "Unauthorized"), denied: true},
		{name: "too many requests", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7") // as flow control answers: not a Status
			http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
		}, transient: true, overload: true, wait: 7 * time.Second},
		{name: "internal", handler: status(500, "InternalError"), transient: true},
		{name: "unavailable", handler: status(503, "ServiceUnavailable"), transient: true},
		{name: "invalid", handler: status(422, "Invalid")},
		{name: "broken connection", handler: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}, transient: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls atomic.Int32
			c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) { calls.Add(1); tc.handler(w, r) })
			err := c.Delete(context.Background(), Resource{Group: "batch", Version: "v1", Plural: "jobs"}, "ns", "a", Preconditions{UID: "u"})
			if err == nil {
				t.Fatal("got no error")
			}
			for what, pair := range map[string][2]bool{
				"IsNotFound": {IsNotFound(err), tc.notFound}, "IsConflict": {IsConflict(err), tc.conflict},
				"IsDenied": {IsDenied(err), tc.denied}, "IsTransient": {IsTransient(err), tc.transient},
				"Overloaded": {Overloaded(err), tc.overload},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s(%v): got %v, want %v", what, err, pair[0], pair[1])
				}
			}
			if got := RetryAfter(err); got != tc.wait {
				t.Errorf("RetryAfter: got %v, want %v", got, tc.wait)
			}
			if got := calls.Load(); got != 1 {
				t.Errorf("got %d requests, want 1: the caller retries", got)
			}
		})
	}
}

func TestClient_ClusterUID(t *testing.T) {
	c := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/kube-system" {
			t.Errorf("got path %s", r.URL.Path)
		}
		w.Header().Set("Content-Type", JSON)
		io.WriteString(w, `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"8d1c"}}`)
	})
	got, err := c.ClusterUID(context.Background())
	if err != nil || got != "8d1c" {
		t.Errorf("got %q, %v, want 8d1c", got, err)
	}
}

func TestLoadConfig(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := LoadConfig(Options{}); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("no configuration at all: got %v, want a hint at --kubeconfig", err)
	}
	file := filepath.Join(t.TempDir(), "config")
	os.WriteFile(file, []byte(`apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: a, cluster: {server: "https://a.example:6443"}}
- {name: b, cluster: {server: "https://b.example:6443"}}
users:
- name: plugin
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, interactiveMode: Never}}
contexts:
- {name: one, context: {cluster: a, user: plugin}}
- {name: two, context: {cluster: b, user: plugin}}
`), 0o600)
	for _, tc := range []struct{ context, host string }{{"", "https://a.example:6443"}, {"two", "https://b.example:6443"}} {
		cfg, err := LoadConfig(Options{Kubeconfig: file, Context: tc.context})
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Host != tc.host || cfg.ExecProvider == nil || cfg.ExecProvider.Command != "get-token" {
			t.Errorf("context %q: got host %s, plugin %v, want %s and get-token", tc.context, cfg.Host, cfg.ExecProvider, tc.host)
		}
		if cfg.QPS >= 0 || cfg.Timeout != DefaultTimeout {
			t.Errorf("got QPS %v and timeout %v, want no client-side limit and %v", cfg.QPS, cfg.Timeout, DefaultTimeout)
		}
	}
	if _, err := LoadConfig(Options{Kubeconfig: file, Context: "three"}); err == nil {
		t.Error("an unknown context was accepted")
	}
}
