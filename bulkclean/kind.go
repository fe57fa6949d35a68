package bulkclean

import (
	"fmt"
	"strings"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// Kind is one row of the table of what can be cleaned.
type Kind struct {
	Name     string        // as --kind takes it
	Resource kube.Resource // how the API server serves it
	dir      string        // its folder below the registry's prefix
	object   string        // its kind, as a stored value names it

	protobuf func(*Facts, []byte) error // nil where it is never stored so
	json     func(*Facts, []byte) error

	// leased marks a kind whose objects end with their lease: only those without one, or that outlived it, are selected.
	leased bool
	// liveOwner allows objects of a live owner to be selected, because no owner keeps a history of them.
	liveOwner bool
	// dependents is the folder of the objects that the garbage collector removes with them, "" where there are none.
	dependents string

	cause string // what would have stopped them from piling up
}

// Kinds is the table, in the order of the documentation.
func Kinds() []*Kind {
	return []*Kind{jobKind, podKind, eventKind, workflowKind, sparkKind}
}

// KindByName finds a row of the table.
func KindByName(name string) (*Kind, error) {
	var names []string
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return nil, fmt.Errorf("kind %q: want one of %s", name, strings.Join(names, ", "))
}

// prefix is the key prefix of the kind, of one namespace where that is given. It ends with a slash: "test" is not
// "test-1".
func (k *Kind) prefix(registry, namespace string) string {
	p := registry + "/" + k.dir + "/"
	if namespace != "" {
		p += namespace + "/"
	}
	return p
}

// split takes a key below the kind's prefix apart.
func (k *Kind) split(registry, key string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, k.prefix(registry, ""))
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, "/")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, "/")
}
