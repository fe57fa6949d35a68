package splitter

import (
	"fmt"
	"strings"
)

// resource checks what stands before the #. It returns the resource that was meant, and whether that is known and can
// be moved.
func (l *linter) resource(text, given string) (GroupResource, bool) {
	trimmed := strings.TrimSpace(given)
	parts := strings.Split(trimmed, "/")
	meant, known := mean(trimmed)
	fix := "write group/resource as the API names it, such as /events or coordination.k8s.io/leases"
	if known {
		fix = "write " + meant.String()
	}
	report := func(rule string, effect Effect, format string, args ...any) {
		l.add(Finding{Rule: rule, Effect: effect, Override: text, Message: fmt.Sprintf(format, args...), Fix: fix})
	}
	if len(parts) != 2 {
		l.fixable = l.fixable && known
		switch {
		case strings.HasPrefix(strings.TrimPrefix(trimmed, "/"), "registry/"):
			report("registry-path", Refused, "%s is a key in etcd: the flag wants the resource as group/resource, and exactly one slash", trimmed)
		case len(parts) == 1:
			report("format", Refused, "%q has no slash: the flag wants group/resource, and the core group is empty", trimmed)
		default:
			report("format", Refused, "%q has %d slashes: the flag wants group/resource, without version and subresource", trimmed, len(parts)-1)
		}
		return meant, known
	}
	gr := GroupResource{parts[0], parts[1]}
	switch {
	case gr.Resource == "*" && knownGroup(gr.Group) && stored[gr.Group] != "":
		if trimmed != given {
			fix = "remove the space"
			report("whitespace", Inert, "a space belongs to the name for the API server: %q is no resource", given)
		}
		fix = "name the resources that are meant"
		report("wildcard", Risky, "* is not documented, and moves every resource of the group: %s", strings.Join(movedBy(gr, true), ", "))
		return gr, true
	case Overridable(gr):
		if trimmed != given {
			report("whitespace", Inert, "a space belongs to the name for the API server: %q is no resource, and the override is never used", given)
		}
		return gr, true
	case otherStores[gr]:
		fix = "remove the override: it cannot be moved"
		report("not-overridable", Inert, "%s is stored by a server inside kube-apiserver that ignores overrides", gr.Name())
		return gr, false
	case virtual[gr]:
		fix = "remove the override"
		report("not-stored", Inert, "%s is never stored", gr.Name())
		return gr, false
	case gr.Group == "registry":
		report("registry-path", Inert, "%s is a key in etcd: the API server looks for a resource of the group \"registry\", which does not exist", trimmed)
	}
	if gr.Group == "registry" {
		l.fixable = l.fixable && known
		return meant, known
	}
	if to, ok := cohabiting[gr]; ok {
		fix = "write " + to.String()
		report("inert-cohabiting", Inert, "%s is stored as %s, and only the override of %s is looked at", gr.Name(), to.Name(), to)
		return to, true
	}
	if gr == (GroupResource{"events.k8s.io", "*"}) {
		fix = "write /events"
		report("inert-cohabiting", Inert, "events.k8s.io is stored as the core group's events, and only the override of /events is looked at")
		return Events, true
	}
	switch {
	case known && meant.Group == gr.Group && strings.EqualFold(meant.Resource, gr.Resource):
		report("unknown-resource", Inert, "%q is no resource: the API server compares names exactly, and this one is %q", gr.Resource, meant.Resource)
	case known && meant.Group == gr.Group:
		report("unknown-resource", Inert, "%q is no resource of %s: the override names the plural, here %q", gr.Resource, groupName(gr.Group), meant.Resource)
	case known:
		report("wrong-group", Inert, "%s has no resource %q; %s is of %s", groupName(gr.Group), gr.Resource, meant.Resource, groupName(meant.Group))
	case !knownGroup(gr.Group) && strings.Contains(gr.Group, "."):
		fix = "remove the override: custom and aggregated resources cannot be moved"
		report("custom-resource", Inert, "%s is not compiled into kube-apiserver: overrides do not reach custom or aggregated resources", gr.Name())
	default:
		report("unknown-resource", Inert, "%s has no resource %q that is stored", groupName(gr.Group), gr.Resource)
	}
	l.fixable = l.fixable && known
	return meant, known
}

func groupName(g string) string {
	if g == "" {
		return "the core group"
	}
	return "the group " + g
}

// mean guesses the resource behind what was typed: a key path, a name with version or subresource, a kind, a singular
// or short name, a wrong group.
func mean(s string) (GroupResource, bool) {
	s = strings.Trim(s, "/ ")
	if gr, ok := strings.CutPrefix(s, "registry/"); ok {
		s = strings.Trim(gr, "/")
		for to, prefixes := range specialPrefixes {
			for _, p := range prefixes {
				if s+"/" == p {
					return to, true
				}
			}
		}
	}
	parts := strings.Split(s, "/")
	group, name := "", parts[0]
	switch {
	case len(parts) == 1:
		if r, g, ok := strings.Cut(s, "."); ok {
			name, group = r, g
		}
	case len(parts) > 1:
		group, name = parts[0], parts[1]
		if len(parts) > 2 && isVersion(parts[1]) {
			name = parts[2]
		}
		if isVersion(group) || group == "core" || group == "api" {
			group = ""
		}
	}
	if to, ok := cohabiting[GroupResource{group, strings.ToLower(name)}]; ok {
		return to, true
	}
	found := byName(name)
	for _, gr := range found {
		if gr.Group == group {
			return gr, true
		}
	}
	// A group that is none of the API server's and looks like one is somebody's own resource of the same name.
	if !knownGroup(group) && strings.Contains(group, ".") {
		return GroupResource{group, name}, false
	}
	if len(found) > 0 {
		return found[0], true
	}
	return GroupResource{group, name}, false
}

// isVersion tells v1, v1beta1, v2alpha3.
func isVersion(s string) bool {
	rest, ok := strings.CutPrefix(s, "v")
	if !ok || rest == "" || rest[0] < '0' || rest[0] > '9' {
		return false
	}
	rest = strings.TrimLeft(rest, "0123456789")
	for _, stage := range []string{"alpha", "beta"} {
		rest = strings.TrimPrefix(rest, stage)
	}
	return strings.Trim(rest, "0123456789") == ""
}
