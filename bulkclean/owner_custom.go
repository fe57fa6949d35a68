package bulkclean

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// crdDir is where the definitions of custom resources lie, by the name PLURAL.GROUP.
const crdDir = "apiextensions.k8s.io/customresourcedefinitions"

var crdResource = kube.Resource{Group: "apiextensions.k8s.io", Version: "v1", Plural: "customresourcedefinitions", Custom: true}

// discover looks up the kinds of owners that the table does not have. An owner names its kind and a definition its
// plural, so the definition is read under the plurals that English makes of the kind, and counts when it says the very
// group and kind. What is found is conservative: its controller may go by names, so that an owner that was made again is
// contested.
func (o *owners) discover(ctx context.Context, batch []*candidate) error {
	for _, c := range batch {
		for _, r := range c.Owners {
			group, _ := r.api()
			name := group + "/" + r.Kind
			if _, ok := ownerKinds[name]; ok || !strings.Contains(group, ".") || r.Kind == "" || strings.Contains(r.Kind, "/") {
				continue
			}
			if _, ok := o.custom[name]; ok {
				continue
			}
			k, err := o.definition(ctx, group, r.Kind)
			if err != nil {
				return err
			}
			if o.custom == nil || len(o.custom) >= ownerCacheSize {
				o.custom = map[string]ownerKind{}
			}
			o.custom[name] = k
		}
	}
	return nil
}

// definition finds the definition of a group and kind; the zero value where there is none to be found.
func (o *owners) definition(ctx context.Context, group, kind string) (ownerKind, error) {
	for _, plural := range plurals(strings.ToLower(kind)) {
		var value []byte
		if o.reader != nil {
			items, rev, err := o.reader.Get(ctx, []string{o.registry + "/" + crdDir + "/" + plural + "." + group})
			if err != nil {
				return ownerKind{}, fmt.Errorf("read the owners' definitions: %w", err)
			}
			o.revision = max(o.revision, rev)
			if items[0] == nil {
				continue
			}
			value = items[0].Value
		} else {
			raw, err := readObject(ctx, o.objects, crdResource, "", plural+"."+group)
			if err != nil {
				continue // not there, or not for us: the kind stays unknown
			}
			value = raw
		}
		var crd struct {
			Spec struct {
				Group string `json:"group"`
				Scope string `json:"scope"`
				Names struct {
					Kind   string `json:"kind"`
					Plural string `json:"plural"`
				} `json:"names"`
			} `json:"spec"`
		}
		text, err := genericJSON(value)
		if err != nil || json.Unmarshal(text, &crd) != nil {
			continue
		}
		if n := crd.Spec.Names; crd.Spec.Group == group && n.Kind == kind && n.Plural == plural {
			return ownerKind{dir: group + "/" + plural, plural: plural, cluster: crd.Spec.Scope == "Cluster", byName: true}, nil
		}
	}
	return ownerKind{}, nil
}

// plurals are what a kind in lower case may be in the plural.
func plurals(kind string) []string {
	out := []string{kind + "s", kind + "es", kind}
	if stem, ok := strings.CutSuffix(kind, "y"); ok {
		out = append([]string{stem + "ies"}, out...)
	}
	return out
}
