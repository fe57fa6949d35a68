package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// serverSet is one distinct list of servers: the API server makes one health check of it, in order of appearance.
type serverSet struct {
	key       string   // as the API server compares it: sorted and joined, as given
	addresses []string // host:port, normalised
	override  string
	check     string
}

// servers checks the servers of every override, each set by itself and against the others and main's.
func (l *linter) servers() {
	main := addresses(l.o.MainServers)
	for i := range l.res.Overrides {
		o := &l.res.Overrides[i]
		text := o.Resource + "#" + strings.Join(o.Servers, ";")
		sorted := slices.Sorted(slices.Values(o.Servers))
		key := strings.Join(sorted, ";")
		if at := slices.IndexFunc(l.sets, func(s serverSet) bool { return s.key == key }); at >= 0 {
			o.Check = l.sets[at].check
			continue
		}
		set := serverSet{key: key, addresses: addresses(o.Servers), override: text, check: fmt.Sprintf("etcd-override-%d", len(l.sets))}
		o.Check = set.check
		l.oneSet(text, o.Servers)
		l.shared(set, main)
		for _, other := range l.sets {
			l.overlap(set, other)
		}
		l.sets = append(l.sets, set)
	}
}

// oneSet checks the servers of one override.
func (l *linter) oneSet(text string, servers []string) {
	seen := map[string]bool{}
	schemes := map[string]bool{}
	for _, s := range servers {
		if strings.TrimSpace(s) != s {
			l.add(Finding{Rule: "whitespace", Effect: Broken, Override: text,
				Message: fmt.Sprintf("the server %q has a space around it, which the API server keeps", s), Fix: "remove the space"})
			s = strings.TrimSpace(s)
		}
		u, f := checkURL(s)
		if f != nil {
			f.Override = text
			l.add(*f)
			if f.Effect == Broken {
				l.fixable = false
			}
		}
		if u == nil {
			continue
		}
		schemes[u.Scheme] = true
		if a := address(s); seen[a] {
			l.add(Finding{Rule: "duplicate-server", Effect: Risky, Override: text, Message: s + " is given twice", Fix: "name every member once"})
		} else {
			seen[a] = true
		}
		if why := l.inCluster(u.Hostname()); why != "" {
			l.add(Finding{Rule: "in-cluster", Effect: Risky, Override: text,
				Message: fmt.Sprintf("%s is %s: the API server then needs the cluster that needs it, and does not come back from a full stop", u.Hostname(), why),
				Fix:     "run the shard's members outside the cluster, as static pods or on their own machines, and give their own addresses"})
			l.fixable = false
		}
	}
	switch {
	case len(schemes) > 1:
		l.fixable = false
		l.add(Finding{Rule: "scheme-mix", Effect: Broken, Override: text,
			Message: "http and https are mixed: the first server decides whether TLS is used for all of them",
			Fix:     "give every server the same scheme, https"})
	case schemes["http"] && slices.ContainsFunc(l.o.MainServers, func(s string) bool { return strings.HasPrefix(s, "https:") }):
		l.fixable = false
		l.add(Finding{Rule: "plaintext-shard", Effect: Risky, Override: text,
			Message: "the shard is reached without TLS while main is reached with it",
			Fix:     "serve the shard over TLS with main's CA, and write https"})
	case schemes["https"] && l.o.HasClientCert != nil && !*l.o.HasClientCert:
		l.add(Finding{Rule: "no-client-certificate", Effect: Broken, Override: text,
			Message: "the shard is reached by https, and --etcd-cafile, --etcd-certfile and --etcd-keyfile, which serve for every etcd, are not all set",
			Fix:     "set --etcd-cafile, --etcd-certfile and --etcd-keyfile"})
	}
}

// shared compares a set with main's servers.
func (l *linter) shared(set serverSet, main []string) {
	if len(main) == 0 {
		return
	}
	var both []string
	for _, a := range set.addresses {
		if slices.Contains(main, a) {
			both = append(both, a)
		}
	}
	if len(both) == 0 {
		return
	}
	l.fixable = false
	if len(both) == len(set.addresses) {
		l.add(Finding{Rule: "shared-with-main", Effect: Inert, Override: set.override,
			Message: fmt.Sprintf("every server (%s) is one of --etcd-servers: nothing moves", strings.Join(both, ", ")),
			Fix:     "name the servers of another etcd cluster, or remove the override"})
		return
	}
	l.add(Finding{Rule: "shared-with-main", Effect: Broken, Override: set.override,
		Message: fmt.Sprintf("%s is one of --etcd-servers and others are not: writes would go to two clusters in turn, and both share one compactor", strings.Join(both, ", ")),
		Fix:     "name the servers of the shard only"})
}

// overlap compares two different sets of overrides.
func (l *linter) overlap(set, other serverSet) {
	var both []string
	for _, a := range set.addresses {
		if slices.Contains(other.addresses, a) {
			both = append(both, a)
		}
	}
	if len(both) == 0 {
		return
	}
	l.fixable = false
	l.add(Finding{Rule: "overlapping-sets", Effect: Risky, Override: set.override,
		Message: fmt.Sprintf("%s is also a server of %s, and the lists differ: they share one compactor, so one cluster may never be compacted, and the health checks are two", strings.Join(both, ", "), other.override),
		Fix:     "write the same list of servers in both overrides, or lists without a common server"})
}

// checkURL reads one server. The URL is nil where it cannot be told.
func checkURL(s string) (*url.URL, *Finding) {
	bad := func(effect Effect, message, fix string) *Finding {
		return &Finding{Rule: "bad-url", Effect: effect, Message: message, Fix: fix}
	}
	if strings.HasPrefix(s, "unix:") || strings.HasPrefix(s, "unixs:") {
		u, _ := url.Parse(s)
		return u, nil
	}
	if !strings.Contains(s, "://") {
		return nil, bad(Risky, fmt.Sprintf("%q has no scheme: TLS is then used only where client certificates are configured", s), "write https://"+s)
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, bad(Broken, fmt.Sprintf("%q is no URL: %v", s, err), "write https://host:port")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, bad(Broken, fmt.Sprintf("%q: the scheme %q is not one etcd is reached by", s, u.Scheme), "write https://"+u.Host)
	case u.Hostname() == "":
		return nil, bad(Broken, fmt.Sprintf("%q has no host", s), "write https://host:port")
	case u.Port() == "":
		return u, bad(Broken, fmt.Sprintf("%q has no port, and there is no default", s), fmt.Sprintf("write %s://%s:2379", u.Scheme, u.Host))
	}
	if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
		return u, bad(Broken, fmt.Sprintf("%q: %s is no port", s, u.Port()), fmt.Sprintf("write %s://%s:2379", u.Scheme, u.Hostname()))
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return u, bad(Risky, fmt.Sprintf("%q: only scheme, host and port are used, the rest is ignored", s), fmt.Sprintf("write %s://%s", u.Scheme, u.Host))
	}
	return u, nil
}

// inCluster says why a host is one that only the cluster itself resolves or routes; "" where it is not.
func (l *linter) inCluster(host string) string {
	h := strings.ToLower(strings.TrimSuffix(host, "."))
	labels := strings.Split(h, ".")
	switch {
	case strings.HasSuffix(h, ".cluster.local"):
		return "a name of the cluster's DNS"
	case len(labels) >= 2 && slices.Contains(labels[1:], "svc"):
		return "a Service's name"
	case len(labels) == 2 && slices.Contains([]string{"default", "kube-system", "kube-public"}, labels[1]):
		return "a Service's name with its namespace"
	}
	ip, err := netip.ParseAddr(h)
	if err != nil {
		return ""
	}
	for _, c := range l.o.ServiceCIDRs {
		if p, err := netip.ParsePrefix(strings.TrimSpace(c)); err == nil && p.Contains(ip.Unmap()) {
			return "an address of --service-cluster-ip-range"
		}
	}
	return ""
}

// address is the normalised host:port of a server.
func address(s string) string {
	s = strings.TrimSpace(s)
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s, _, _ = strings.Cut(rest, "/")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), ""
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
		if ip.Unmap().IsLoopback() {
			host = "localhost"
		}
	}
	return net.JoinHostPort(host, port)
}

func addresses(servers []string) []string {
	out := make([]string, len(servers))
	for i, s := range servers {
		out[i] = address(s)
	}
	return out
}
