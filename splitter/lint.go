package splitter

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strings"
)

// Effect is what the API server makes of a finding.
type Effect string

// Effects, worst first.
const (
	Refused Effect = "refused" // kube-apiserver does not start
	Broken  Effect = "broken"  // it starts, and cannot reach or keep the shard
	Inert   Effect = "inert"   // it starts, and the override moves nothing
	Risky   Effect = "risky"   // it works, and endangers the control plane
)

// Finding is one thing wrong with an override value or with the manifest it stands in, with its fix.
type Finding struct {
	Rule     string `json:"rule"`
	Effect   Effect `json:"effect"`
	Override string `json:"override,omitempty"` // the part of the value it is about, as given
	Where    string `json:"where,omitempty"`    // the place in a manifest
	Message  string `json:"message"`
	Fix      string `json:"fix"`
}

// Override is one parsed element of --etcd-servers-overrides.
type Override struct {
	Resource string   `json:"resource"` // group/resource
	Servers  []string `json:"servers"`
	Moves    []string `json:"moves"`       // resources that leave the main cluster by it
	Check    string   `json:"healthCheck"` // its name in /livez and /readyz
}

// LintResult is what the linter found in one value or manifest.
type LintResult struct {
	Subject   string     `json:"subject"`
	Values    []string   `json:"values"`
	Overrides []Override `json:"overrides"`
	Findings  []Finding  `json:"findings"`
	Corrected *string    `json:"corrected"` // a value without the findings that have one obvious fix; null where there is none
}

// LintOptions is what the linter may know besides the value.
type LintOptions struct {
	MainServers  []string // --etcd-servers
	ServiceCIDRs []string // --service-cluster-ip-range
	// HasClientCert tells whether --etcd-certfile, -keyfile and -cafile are set; nil: not known.
	HasClientCert *bool
}

// LintValue checks one value of the flag, with or without "--etcd-servers-overrides=" in front of it.
func LintValue(value string, o LintOptions) LintResult {
	v := value
	if rest, ok := strings.CutPrefix(strings.TrimSpace(value), "--etcd-servers-overrides"); ok {
		v = strings.TrimLeft(rest, "= ")
		if len(v) > 1 && (v[0] == '\'' || v[0] == '"') && v[len(v)-1] == v[0] {
			v = v[1 : len(v)-1]
		}
	}
	return lintValues(value, []string{v}, o)
}

// linter carries one run.
type linter struct {
	o   LintOptions
	res LintResult

	fixed   []Override // what the value means once corrected, resources that cannot move left out
	fixable bool
	sets    []serverSet
}

// lintValues checks the occurrences of the flag, which the API server concatenates.
func lintValues(subject string, values []string, o LintOptions) LintResult {
	l := &linter{o: o, fixable: true}
	l.res = LintResult{Subject: subject, Values: values, Overrides: []Override{}, Findings: []Finding{}}
	var elements []string
	for _, v := range values {
		record, err := readCSV(v)
		if err != nil {
			l.add(Finding{Rule: "csv", Effect: Refused, Override: v,
				Message: fmt.Sprintf("the flag is read as comma-separated values, and this is none: %v", err),
				Fix:     "remove the double quotes from the value"})
			record = strings.Split(strings.ReplaceAll(v, `"`, ""), ",")
		}
		if v == "" {
			l.add(Finding{Rule: "empty", Effect: Inert, Message: "the value is empty: nothing is moved",
				Fix: "give group/resource#server;server, or remove the flag"})
			l.fixable = false
		}
		elements = append(elements, record...)
	}
	for _, e := range l.join(elements) {
		l.element(e)
	}
	l.duplicates()
	l.servers()
	if l.fixable && len(l.fixed) > 0 && len(l.res.Findings) > 0 {
		v := FormatOverrides(l.fixed)
		if v != strings.Join(values, ",") {
			l.res.Corrected = &v
		}
	}
	return l.res
}

// readCSV reads a value as the flag does: the first record only, nothing for an empty one.
func readCSV(v string) ([]string, error) {
	if v == "" {
		return nil, nil
	}
	return csv.NewReader(strings.NewReader(v)).Read()
}

// FormatOverrides is the flag's value for overrides.
func FormatOverrides(overrides []Override) string {
	out := make([]string, len(overrides))
	for i, o := range overrides {
		out[i] = o.Resource + "#" + strings.Join(o.Servers, ";")
	}
	return strings.Join(out, ",")
}

func (l *linter) add(f Finding) { l.res.Findings = append(l.res.Findings, f) }

// element is one comma-separated part, with the parts behind it that were meant as its servers.
type element struct {
	text  string
	extra []string // servers that stood behind a comma
}

// join puts servers that stand behind a comma back to their override, and takes apart overrides that stand behind a
// semicolon, reporting both.
func (l *linter) join(parts []string) []element {
	var out []element
	for _, p := range parts {
		if !strings.Contains(p, "#") && looksLikeServer(p) && len(out) > 0 {
			out[len(out)-1].extra = append(out[len(out)-1].extra, strings.TrimSpace(p))
			continue
		}
		if strings.Count(p, "#") > 1 && strings.Contains(p, ";") {
			if pieces, ok := splitBySemicolon(p); ok {
				l.add(Finding{Rule: "semicolon-between-overrides", Effect: Refused, Override: p,
					Message: "a semicolon stands between overrides; semicolons separate the servers of one override, commas the overrides",
					Fix:     "write " + strings.Join(pieces, ",")})
				for _, piece := range pieces {
					out = append(out, element{text: piece})
				}
				continue
			}
		}
		out = append(out, element{text: p})
	}
	for i, e := range out {
		if len(e.extra) == 0 {
			continue
		}
		fixed := strings.Join(append([]string{e.text}, e.extra...), ";")
		l.add(Finding{Rule: "comma-between-servers", Effect: Refused, Override: strings.Join(append([]string{e.text}, e.extra...), ","),
			Message: "a comma stands between servers; commas separate overrides, semicolons the servers of one override",
			Fix:     "write " + fixed})
		out[i].text = fixed
	}
	return out
}

// splitBySemicolon cuts "/a#x;y;/b#z" before "/b".
func splitBySemicolon(p string) ([]string, bool) {
	var out []string
	for piece := range strings.SplitSeq(p, ";") {
		if strings.Contains(piece, "#") {
			out = append(out, piece)
			continue
		}
		if len(out) == 0 {
			return nil, false
		}
		out[len(out)-1] += ";" + piece
	}
	for _, piece := range out {
		if strings.Count(piece, "#") != 1 {
			return nil, false
		}
	}
	return out, true
}

func looksLikeServer(s string) bool {
	s = strings.TrimSpace(s)
	if strings.Contains(s, "://") {
		return true
	}
	host, port, ok := strings.Cut(s, ":")
	return ok && host != "" && port != "" && strings.Trim(port, "0123456789") == ""
}

// element checks one override's form and resource and records its servers.
func (l *linter) element(e element) {
	text := e.text
	resource, rest, ok := strings.Cut(text, "#")
	switch {
	case text == "":
		l.add(Finding{Rule: "format", Effect: Refused, Message: "an empty override: a comma at the beginning, at the end or doubled",
			Fix: "remove the superfluous comma"})
		return
	case !ok:
		l.fixable = false
		l.add(Finding{Rule: "format", Effect: Refused, Override: text, Message: "no # between resource and servers",
			Fix: "write group/resource#server;server, such as /events#https://10.0.0.1:2379;https://10.0.0.2:2379"})
		return
	case strings.Contains(rest, "#"):
		l.fixable = false
		l.add(Finding{Rule: "format", Effect: Refused, Override: text, Message: "more than one # in an override",
			Fix: "write group/resource#server;server with one #, and a comma between overrides"})
		return
	}
	gr, known := l.resource(text, resource)
	var servers []string
	empty := false
	for s := range strings.SplitSeq(rest, ";") {
		if s == "" {
			empty = true
			continue
		}
		servers = append(servers, s)
	}
	if empty {
		fix := "remove the superfluous semicolon"
		if len(servers) == 0 {
			fix = "give the servers' URLs behind the #, with semicolons between them"
		}
		l.add(Finding{Rule: "empty-server", Effect: Refused, Override: text, Message: "an empty server in the list", Fix: fix})
	}
	if len(servers) == 0 {
		l.fixable = false
		return
	}
	o := Override{Resource: resource, Servers: servers, Moves: movedBy(exact(resource))}
	l.res.Overrides = append(l.res.Overrides, o)
	if known {
		trimmed := make([]string, len(servers))
		for i, s := range servers {
			trimmed[i] = strings.TrimSpace(s)
		}
		l.fixed = append(l.fixed, Override{Resource: gr.String(), Servers: trimmed})
	}
}

// exact is the resource the API server takes the text for, and whether it stores that.
func exact(text string) (GroupResource, bool) {
	group, resource, _ := strings.Cut(text, "/")
	gr := GroupResource{group, resource}
	return gr, Overridable(gr) || resource == "*" && stored[group] != ""
}

// movedBy lists what an override of gr moves.
func movedBy(gr GroupResource, known bool) []string {
	out := []string{}
	if !known {
		return out
	}
	if gr.Resource != "*" {
		return append(out, gr.Name())
	}
	for r := range strings.FieldsSeq(stored[gr.Group]) {
		out = append(out, GroupResource{gr.Group, r}.Name())
	}
	return out
}

// duplicates reports resources that are overridden more than once: the last one wins, all of them are health checks.
func (l *linter) duplicates() {
	seen := map[string]string{}
	for _, o := range l.res.Overrides {
		text := o.Resource + "#" + strings.Join(o.Servers, ";")
		first, ok := seen[o.Resource]
		if !ok {
			seen[o.Resource] = text
			continue
		}
		l.fixable = l.fixable && first == text
		l.add(Finding{Rule: "duplicate-override", Effect: Risky, Override: text,
			Message: fmt.Sprintf("%s is overridden more than once: the last one wins, and the servers of all of them must be healthy for /livez and /readyz", o.Resource),
			Fix:     "keep one override of " + o.Resource})
	}
	var fixed []Override
	for _, o := range l.fixed {
		if !slices.ContainsFunc(fixed, func(f Override) bool { return f.Resource == o.Resource }) {
			fixed = append(fixed, o)
		}
	}
	l.fixed = fixed
}
