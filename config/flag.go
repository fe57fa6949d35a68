package config

import (
	"reflect"
	"strings"

	"github.com/spf13/pflag"
)

// AddFlag declares the flag name for the key at path, with the key's default and sentence in its help. It panics on an
// unknown path: that is an error in the program.
func AddFlag(fs *pflag.FlagSet, name, path string) *pflag.Flag {
	k, ok := Lookup(path)
	if !ok {
		panic("no configuration key " + path)
	}
	v := &flagValue{key: k, text: k.Format(k.Default)}
	f := fs.VarPF(v, name, "", usage(k.Doc))
	if k.Type.Kind() == reflect.Bool {
		f.NoOptDefVal = "true"
	}
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[keyAnnotation] = []string{path}
	return f
}

// usage is the first sentence of a doc, in the manner of flags.
func usage(doc string) string {
	if doc == "" {
		return ""
	}
	first, _, _ := strings.Cut(doc, ". ")
	first = strings.TrimSuffix(first, ".")
	if len(first) > 1 && strings.ToUpper(first[:2]) == first[:2] { // an abbreviation
		return first
	}
	return strings.ToLower(first[:1]) + first[1:]
}

const keyAnnotation = "etcdkeeper-config-key"

// BoundFlags are the flags of fs that AddFlag declared, by path: Options.Flags.
func BoundFlags(fs *pflag.FlagSet) map[string]*pflag.Flag {
	bound := map[string]*pflag.Flag{}
	fs.VisitAll(func(f *pflag.Flag) {
		if path := f.Annotations[keyAnnotation]; len(path) == 1 {
			bound[path[0]] = f
		}
	})
	return bound
}

// flagValue checks a value when the command line is read. A list or map given several times grows.
type flagValue struct {
	key  Key
	text string
	set  bool
}

func (v *flagValue) String() string { return v.text }

func (v *flagValue) Set(text string) error {
	if _, err := v.key.ParseText(text); err != nil {
		return err
	}
	kind := v.key.Type.Kind()
	if v.set && (kind == reflect.Slice || kind == reflect.Map) && v.text != "" {
		text = v.text + "," + text
	}
	v.text, v.set = text, true
	return nil
}

// Type names the value in the help.
func (v *flagValue) Type() string {
	t := v.key.Type
	switch {
	case t == durationType:
		return "duration"
	case t.Name() == "Bytes":
		return "size"
	case t.Kind() == reflect.Bool, t.Kind() == reflect.String && t.Name() == "string":
		return t.Kind().String()
	case t.Kind() == reflect.Slice:
		return "list"
	case t.Kind() == reflect.Map:
		return "NAME=VALUE"
	case t.Kind() == reflect.Float64:
		return "number"
	}
	return strings.ToLower(t.Name())
}

// IsBoolFlag lets a switch stand without a value.
func (v *flagValue) IsBoolFlag() bool { return v.key.Type.Kind() == reflect.Bool }
