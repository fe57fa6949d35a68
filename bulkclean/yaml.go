package bulkclean

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// toYAML writes JSON as block YAML with sorted keys. General YAML libraries take as long for one Job as etcd takes to
// delete twenty.
func toYAML(text []byte) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return "", err
	}
	var b strings.Builder
	yamlValue(&b, v, 0)
	return b.String(), nil
}

// yamlValue writes v behind "key:" or "-", or at the beginning of a line where indent is 0 and nothing was written.
func yamlValue(b *strings.Builder, v any, indent int) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			b.WriteString("{}\n")
			return
		}
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				pad(b, indent)
			}
			yamlString(b, k)
			b.WriteByte(':')
			yamlChild(b, v[k], indent)
		}
	case []any:
		if len(v) == 0 {
			b.WriteString("[]\n")
			return
		}
		for i, e := range v {
			if i > 0 {
				pad(b, indent)
			}
			b.WriteString("- ")
			yamlValue(b, e, indent+1)
		}
	default:
		yamlScalar(b, v)
		b.WriteByte('\n')
	}
}

// yamlChild writes the value of a key: on the same line, or deeper below it. Lists lie at their key's own depth.
func yamlChild(b *strings.Builder, v any, indent int) {
	switch c := v.(type) {
	case map[string]any:
		if len(c) > 0 {
			b.WriteByte('\n')
			pad(b, indent+1)
			yamlValue(b, v, indent+1)
			return
		}
	case []any:
		if len(c) > 0 {
			b.WriteByte('\n')
			pad(b, indent)
			yamlValue(b, v, indent)
			return
		}
	}
	b.WriteByte(' ')
	yamlValue(b, v, indent)
}

func pad(b *strings.Builder, indent int) {
	for range indent {
		b.WriteString("  ")
	}
}

func yamlScalar(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		if v {
			b.WriteString("true")
		} else {
			b.WriteString("false")
		}
	case json.Number:
		b.WriteString(v.String())
	case string:
		yamlString(b, v)
	}
}

// yamlString writes what cannot be taken for anything else plainly, and the rest in Go's quotes, whose escapes are YAML's too.
func yamlString(b *strings.Builder, s string) {
	if plain(s) {
		b.WriteString(s)
		return
	}
	b.WriteString(strconv.Quote(s))
}

func plain(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '/')) {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		return false
	}
	return true
}
