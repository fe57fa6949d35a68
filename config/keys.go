package config

import (
	"encoding"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// EnvPrefix begins every environment variable of ours.
const EnvPrefix = "ETCDKEEPER_"

// Key is one setting, as the struct tags declare it.
type Key struct {
	Path    string // dotted, as in the file: defrag.rule
	Env     string // ETCDKEEPER_DEFRAG_RULE
	Doc     string // one sentence or two
	Secret  bool   // masked wherever it is shown
	Type    reflect.Type
	Default any

	index []int
}

// Keys are all settings in the order of the struct.
func Keys() []Key {
	var keys []Key
	walk(reflect.ValueOf(Default()), "", nil, &keys)
	return keys
}

// Lookup finds a key by its path.
func Lookup(path string) (Key, bool) {
	for _, k := range Keys() {
		if k.Path == path {
			return k, true
		}
	}
	return Key{}, false
}

func walk(v reflect.Value, prefix string, index []int, keys *[]Key) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name := fieldName(f)
		if name == "" {
			continue
		}
		at := append(append([]int(nil), index...), i)
		if f.Type.Kind() == reflect.Struct && !isScalar(f.Type) {
			if name == inline {
				walk(v.Field(i), prefix, at, keys)
			} else {
				walk(v.Field(i), prefix+name+".", at, keys)
			}
			continue
		}
		*keys = append(*keys, Key{
			Path:    prefix + name,
			Env:     envName(prefix + name),
			Doc:     f.Tag.Get("doc"),
			Secret:  f.Tag.Get("secret") == "true",
			Type:    f.Type,
			Default: v.Field(i).Interface(),
			index:   at,
		})
	}
}

// inline is the name of an embedded section whose keys belong to the one around it.
const inline = ","

// fieldName is the key of a struct field; "" for one that is none.
func fieldName(f reflect.StructField) string {
	tag := f.Tag.Get("yaml")
	if !f.IsExported() || tag == "" || tag == "-" {
		return ""
	}
	if tag == ",inline" {
		return inline
	}
	name, _, _ := strings.Cut(tag, ",")
	return name
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType    = reflect.TypeFor[time.Duration]()
)

// isScalar tells whether a value of t is one word in the file.
func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return true
	}
	return false
}

// envName turns a path into the name of its variable: words of camelCase are parted, runs of capitals stay together.
func envName(path string) string {
	var b strings.Builder
	b.WriteString(EnvPrefix)
	rs := []rune(path)
	for i, r := range rs {
		switch {
		case r == '.' || r == '-':
			b.WriteByte('_')
			continue
		case unicode.IsUpper(r) && i > 0 && rs[i-1] != '.':
			follows := i+1 < len(rs) && unicode.IsLower(rs[i+1]) && !(rs[i+1] == 's' && (i+2 == len(rs) || !unicode.IsLower(rs[i+2])))
			if unicode.IsLower(rs[i-1]) || unicode.IsDigit(rs[i-1]) || (unicode.IsUpper(rs[i-1]) && follows) {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// Fields are the keys of a structured value, such as an item of a list: paths are below it, and they have no variable.
func Fields(t reflect.Type) []Key {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || isScalar(t) {
		return nil
	}
	var keys []Key
	walk(reflect.New(t).Elem(), "", nil, &keys)
	for i := range keys {
		keys[i].Env = ""
	}
	return keys
}
