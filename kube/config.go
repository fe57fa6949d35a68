// Package kube speaks to a Kubernetes API server: it reads, deletes and creates single objects by name. It never lists
// and never watches, because the collections it is needed for are those that cannot be listed any more.
//
// A Client is safe for concurrent use. It starts no goroutines of its own and retries nothing: the caller sees every
// 429, Retry-After and broken connection, and sets its own pace.
package kube

import (
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// DefaultTimeout bounds one request. The API server gives up on its own after 60 s.
const DefaultTimeout = 30 * time.Second

// Options say where the API server is.
type Options struct {
	// Kubeconfig is a file; empty means $KUBECONFIG, then ~/.kube/config, then the pod's service account.
	Kubeconfig string
	// Context is the kubeconfig's context; empty means its current one.
	Context string
	// UserAgent names the caller in the audit log; empty means "etcdkeeper".
	UserAgent string
	// Timeout bounds one request; 0 means DefaultTimeout.
	Timeout time.Duration
}

// LoadConfig finds the connection that o describes: tokens, certificates, exec plugins and the in-cluster service
// account are client-go's.
func LoadConfig(o Options) (*rest.Config, error) {
	cfg, err := load(o)
	if err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = o.UserAgent
	if cfg.UserAgent == "" {
		cfg.UserAgent = "etcdkeeper"
	}
	cfg.Timeout = o.Timeout
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	cfg.QPS = -1 // the callers pace themselves
	return cfg, nil
}

func load(o Options) (*rest.Config, error) {
	if o.Kubeconfig == "" && o.Context == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		if cfg, err := rest.InClusterConfig(); err == nil {
			return cfg, nil
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w; give --kubeconfig and --context, or set KUBECONFIG", err)
	}
	return cfg, nil
}
