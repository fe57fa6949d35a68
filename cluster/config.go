package cluster

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// Defaults of the connection. The endpoint is the member beside the keeper; the time-outs are etcdctl's.
const (
	DefaultEndpoint       = "127.0.0.1:2379"
	DefaultDialTimeout    = 2 * time.Second
	DefaultCommandTimeout = 5 * time.Second
)

// Config is how the members of a cluster are reached. Its keys are etcdctl's flags.
type Config struct {
	Endpoints             []string          `yaml:"endpoints" doc:"Client URLs of the members. A given endpoint serves the member that answers it; the other members are reached by the client URLs that they announce."`
	CACert                string            `yaml:"cacert" doc:"File with the CA certificates that the members' certificates are verified with. Read again when it changes."`
	Cert                  string            `yaml:"cert" doc:"File with the client certificate. Read again when it changes."`
	Key                   string            `yaml:"key" doc:"File with the client certificate's private key. Read again when it changes."`
	User                  string            `yaml:"user" doc:"User name, or NAME:PASSWORD where no password is given."`
	Password              string            `yaml:"password" secret:"true" doc:"Password of the user."`
	InsecureSkipTLSVerify bool              `yaml:"insecureSkipTLSVerify" doc:"Do not verify the members' certificates. For tests only."`
	DialTimeout           time.Duration     `yaml:"dialTimeout" doc:"Longest wait for a connection."`
	CommandTimeout        time.Duration     `yaml:"commandTimeout" doc:"Longest wait for one member's answer to a short request. Never bounds a defragmentation."`
	Member                string            `yaml:"member" doc:"Name of the member beside this keeper. Empty: the member that answers the only endpoint; with several endpoints, none, and the keeper looks after the whole cluster alone."`
	MemberDataDir         string            `yaml:"memberDataDir" doc:"Data directory of the member beside this keeper, where it may be looked at: free space and write-ahead log."`
	MetricsURLs           map[string]string `yaml:"metricsURLs" doc:"Metrics URL of a member by its name, where its metrics are not served on its client URL."`
	QuotaBackendBytes     bytesize.Bytes    `yaml:"quotaBackendBytes" doc:"The members' --quota-backend-bytes, used only for a member that does not tell its quota. 0: not given."`
}

// DefaultConfig reaches the member on this machine without TLS.
func DefaultConfig() Config {
	return Config{
		Endpoints:      []string{DefaultEndpoint},
		DialTimeout:    DefaultDialTimeout,
		CommandTimeout: DefaultCommandTimeout,
	}
}

// Credentials are the user's name and password: etcdctl's --user NAME:PASSWORD is taken apart where Password is empty.
func (c Config) Credentials() (name, password string) {
	if c.Password == "" {
		if n, p, ok := strings.Cut(c.User, ":"); ok {
			return n, p
		}
	}
	return c.User, c.Password
}

// Validate joins every error of the configuration. It reads no file.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if len(c.Endpoints) == 0 {
		bad("endpoints", "want at least one client URL, such as %s", DefaultEndpoint)
	}
	for _, e := range c.Endpoints {
		if err := checkEndpoint(e); err != nil {
			bad("endpoints", "%w", err)
		}
	}
	switch {
	case c.Cert != "" && c.Key == "":
		bad("key", "cert is given, so the private key is needed too")
	case c.Key != "" && c.Cert == "":
		bad("cert", "key is given, so the certificate is needed too")
	}
	if c.Password != "" && c.User == "" {
		bad("user", "password is given, so the user name is needed too")
	}
	if c.DialTimeout <= 0 {
		bad("dialTimeout", "want more than 0, got %s", c.DialTimeout)
	}
	if c.CommandTimeout <= 0 {
		bad("commandTimeout", "want more than 0, got %s", c.CommandTimeout)
	}
	if c.QuotaBackendBytes < 0 {
		bad("quotaBackendBytes", "want 0 or more, got %d", int64(c.QuotaBackendBytes))
	}
	for _, name := range sortedKeys(c.MetricsURLs) {
		u, err := url.Parse(c.MetricsURLs[name])
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			bad("metricsURLs", "member %s: %q: want a URL such as http://127.0.0.1:2381/metrics", name, c.MetricsURLs[name])
		}
	}
	return errors.Join(errs...)
}

func checkEndpoint(e string) error {
	if !strings.Contains(e, "://") {
		if strings.TrimSpace(e) == "" || strings.ContainsAny(e, " /") {
			return fmt.Errorf("%q: want HOST:PORT or a URL", e)
		}
		return nil
	}
	u, err := url.Parse(e)
	if err != nil {
		return fmt.Errorf("%q: %w", e, err)
	}
	if !slices.Contains([]string{"http", "https", "unix", "unixs"}, u.Scheme) {
		return fmt.Errorf("%q: want http, https, unix or unixs, got %s", e, u.Scheme)
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
