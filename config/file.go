package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseFile reads a configuration file strictly and returns the values that it sets, by path. Every problem is
// reported, each with its line.
func parseFile(data []byte, keys []Key) (map[string]any, []error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, []error{err}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, []error{errors.New("want one YAML document, got more")}
	}
	d := decoder{values: map[string]any{}}
	root := resolve(doc.Content[0])
	if root.Tag == "!!null" {
		return nil, nil
	}
	d.section(root, "", keys)
	return d.values, d.problems
}

// scalarSections are the sections that may be written as one value, which is that of the key named.
var scalarSections = map[string]string{"listen": "listen.address"}

// decoder collects what a file sets and what is wrong with it.
type decoder struct {
	values   map[string]any
	problems []error
	depth    int // of decode within itself
}

// maxDepth is far beyond what any key needs, and bounds a list that contains itself by an alias.
const maxDepth = 20

func (d *decoder) problem(n *yaml.Node, format string, args ...any) {
	d.problems = append(d.problems, fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...))
}

// section reads the mapping n into the keys below prefix.
func (d *decoder) section(n *yaml.Node, prefix string, keys []Key) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, "%s: want keys and values, got %s", label(prefix), kindOf(n))
		return
	}
	names := childNames(prefix, keys)
	d.pairs(n, prefix, names, func(name string, value *yaml.Node) {
		path := prefix + name
		for _, k := range keys {
			if k.Path != path {
				continue
			}
			if value.Tag == "!!null" { // "rule:" with nothing behind it leaves the default
				return
			}
			v := reflect.New(k.Type).Elem()
			before := len(d.problems)
			d.decode(value, v, path)
			if len(d.problems) == before {
				d.values[path] = v.Interface()
			}
			return
		}
		if short, ok := scalarSections[path]; ok && value.Kind == yaml.ScalarNode && value.Tag != "!!null" {
			d.values[short] = value.Value
			return
		}
		if value.Tag != "!!null" {
			d.section(value, path+".", keys)
		}
	})
}

// pairs calls known for every pair of the mapping n whose key is one of names, and reports the others.
func (d *decoder) pairs(n *yaml.Node, prefix string, names []string, known func(name string, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		name := key.Value
		if line, dup := seen[name]; dup {
			d.problem(key, "%s%s: given twice, first in line %d", prefix, name, line)
			continue
		}
		seen[name] = key.Line
		if !slices.Contains(names, name) {
			d.problem(key, "%s%s: unknown key%s", prefix, name, suggest(prefix, name, names))
			continue
		}
		known(name, value)
	}
}

// decode reads n into v strictly.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if d.depth++; d.depth > maxDepth {
		d.problem(n, "%s: nested too deeply", path)
		d.depth--
		return
	}
	defer func() { d.depth-- }()
	n = resolve(n)
	t := v.Type()
	switch {
	case isScalar(t):
		if n.Kind != yaml.ScalarNode {
			d.problem(n, "%s: want one value, got %s", path, kindOf(n))
			return
		}
		if t.Kind() == reflect.String && n.Tag == "!!null" {
			return
		}
		if err := setScalar(v, n.Value); err != nil {
			d.problem(n, "%s: %w", path, err)
		}
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		d.decode(n, v.Elem(), path)
	case t.Kind() == reflect.Slice:
		if n.Kind == yaml.ScalarNode && isScalar(t.Elem()) { // "a,b" as etcdctl's --endpoints
			if err := setText(v, n.Value); err != nil {
				d.problem(n, "%s: %w", path, err)
			}
			return
		}
		if n.Kind != yaml.SequenceNode {
			d.problem(n, "%s: want a list, got %s", path, kindOf(n))
			return
		}
		out := reflect.MakeSlice(t, len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.decode(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		v.Set(out)
	case t.Kind() == reflect.Map:
		if n.Kind != yaml.MappingNode {
			d.problem(n, "%s: want names and values, got %s", path, kindOf(n))
			return
		}
		out := reflect.MakeMap(t)
		for i := 0; i+1 < len(n.Content); i += 2 {
			e := reflect.New(t.Elem()).Elem()
			d.decode(n.Content[i+1], e, path+"."+n.Content[i].Value)
			out.SetMapIndex(reflect.ValueOf(n.Content[i].Value).Convert(t.Key()), e)
		}
		v.Set(out)
	case t.Kind() == reflect.Struct:
		if n.Kind != yaml.MappingNode {
			d.problem(n, "%s: want keys and values, got %s", path, kindOf(n))
			return
		}
		fields := map[string]int{}
		var names []string
		for i := range t.NumField() {
			if name := fieldName(t.Field(i)); name != "" {
				fields[name] = i
				names = append(names, name)
			}
		}
		d.pairs(n, path+".", names, func(name string, value *yaml.Node) {
			d.decode(value, v.Field(fields[name]), path+"."+name)
		})
	default:
		d.problem(n, "%s: a value of type %s cannot be configured", path, t)
	}
}

// childNames are the names that may stand directly below prefix.
func childNames(prefix string, keys []Key) []string {
	var names []string
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k.Path, prefix)
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, ".")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", n.Value)
}

func label(prefix string) string {
	if prefix == "" {
		return "the file"
	}
	return strings.TrimSuffix(prefix, ".")
}

// flowYAML writes a structured value on one line.
func flowYAML(v reflect.Value) string {
	var n yaml.Node
	encodeNode(v, &n)
	out, err := yaml.Marshal(&n)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// encodeNode is decode's counterpart, in flow style.
func encodeNode(v reflect.Value, n *yaml.Node) {
	n.Style = yaml.FlowStyle
	t := v.Type()
	switch {
	case isScalar(t):
		text := formatText(v)
		n.SetString(text)
		if t.Kind() != reflect.String && !strings.ContainsAny(text, " :*,") {
			n.Tag = ""
		}
		n.Style = 0
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!null", "null"
			return
		}
		encodeNode(v.Elem(), n)
	case t.Kind() == reflect.Slice:
		n.Kind = yaml.SequenceNode
		for i := range v.Len() {
			item := new(yaml.Node)
			encodeNode(v.Index(i), item)
			n.Content = append(n.Content, item)
		}
	case t.Kind() == reflect.Map:
		n.Kind = yaml.MappingNode
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			name, item := new(yaml.Node), new(yaml.Node)
			name.SetString(key.String())
			encodeNode(v.MapIndex(key), item)
			n.Content = append(n.Content, name, item)
		}
	case t.Kind() == reflect.Struct:
		n.Kind = yaml.MappingNode
		for i := range t.NumField() {
			name := fieldName(t.Field(i))
			if name == "" || v.Field(i).IsZero() {
				continue
			}
			key, item := new(yaml.Node), new(yaml.Node)
			key.SetString(name)
			encodeNode(v.Field(i), item)
			n.Content = append(n.Content, key, item)
		}
	}
}
