package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// Options is where values come from beside the defaults and the environment.
type Options struct {
	File  string                 // the configuration file; "" for none
	Flags map[string]*pflag.Flag // by path; only changed flags count
}

// Value is one effective value and its source.
type Value struct {
	Key    Key
	Value  any
	Source string // "default", "file", "env NAME", "flag --NAME"
}

// Loaded is a valid configuration and how it came to be.
type Loaded struct {
	Config   Config
	File     string // "" where none was read
	Values   []Value
	Warnings []string // unknown variables of ours
}

// connectionFlags are the keys whose variable also has etcdctl's name, and ours without the section.
var connectionFlags = map[string]string{
	"etcd.endpoints":             "ENDPOINTS",
	"etcd.cacert":                "CACERT",
	"etcd.cert":                  "CERT",
	"etcd.key":                   "KEY",
	"etcd.user":                  "USER",
	"etcd.password":              "PASSWORD",
	"etcd.insecureSkipTLSVerify": "INSECURE_SKIP_TLS_VERIFY",
	"etcd.dialTimeout":           "DIAL_TIMEOUT",
	"etcd.commandTimeout":        "COMMAND_TIMEOUT",
}

// commandVariables are variables of ours that stand for a flag of the command line and not for a key.
var commandVariables = []string{"CONFIG", "WRITE_OUT", "KUBECONFIG", "CONTEXT", "YES"}

// envNames are the variables of a key, first one first.
func envNames(k Key) []string {
	names := []string{k.Env}
	if joined := EnvPrefix + strings.ToUpper(strings.ReplaceAll(k.Path, ".", "_")); joined != k.Env {
		names = append(names, joined)
	}
	for section, path := range scalarSections {
		if path == k.Path {
			names = append(names, envName(section))
		}
	}
	if short, ok := connectionFlags[k.Path]; ok {
		names = append(names, EnvPrefix+short, "ETCDCTL_"+short)
	}
	return names
}

// Load composes the configuration: flag before environment before file before default. The error joins every problem
// of every source.
func Load(o Options) (*Loaded, error) {
	keys := Keys()
	v := viper.New()
	for _, k := range keys {
		v.SetDefault(k.Path, k.Default)
	}
	var problems []error
	if o.File != "" {
		data, err := os.ReadFile(o.File)
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		values, bad := parseFile(data, keys)
		for _, err := range bad {
			problems = append(problems, fmt.Errorf("%s: %w", o.File, err))
		}
		if err := v.MergeConfigMap(nest(values)); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", o.File, err))
		}
	}
	l := &Loaded{File: o.File, Warnings: unknownVariables(os.Environ(), keys)}
	out := reflect.ValueOf(&l.Config).Elem()
	for _, k := range keys {
		val, err := effective(v, k, o.Flags[k.Path])
		if err != nil {
			problems = append(problems, err)
			val.Value = k.Default
		}
		out.FieldByIndex(k.index).Set(reflect.ValueOf(val.Value))
		l.Values = append(l.Values, val)
	}
	problems = append(problems, flatten(l.Config.Validate())...)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return l, nil
}

// effective is the value of one key from its strongest source.
func effective(v *viper.Viper, k Key, flag *pflag.Flag) (Value, error) {
	val := Value{Key: k, Source: "default"}
	if v.InConfig(k.Path) {
		val.Source = "file"
	}
	for _, name := range envNames(k) {
		if os.Getenv(name) != "" {
			if err := v.BindEnv(k.Path, name); err != nil {
				return val, err
			}
			val.Source = "env " + name
			break
		}
	}
	if flag != nil && flag.Changed {
		if err := v.BindPFlag(k.Path, flag); err != nil {
			return val, err
		}
		val.Source = "flag --" + flag.Name
	}
	val.Value = v.Get(k.Path)
	if text, ok := val.Value.(string); ok && (strings.HasPrefix(val.Source, "env ") || strings.HasPrefix(val.Source, "flag ")) {
		parsed, err := k.ParseText(text)
		if err != nil {
			_, source, _ := strings.Cut(val.Source, " ")
			return val, fmt.Errorf("%s: %w", source, err)
		}
		val.Value = parsed
	}
	if got := reflect.TypeOf(val.Value); got != k.Type {
		return val, fmt.Errorf("%s: got a %v from %s, want a %v", k.Path, got, val.Source, k.Type)
	}
	return val, nil
}

// nest makes a tree of dotted paths.
func nest(values map[string]any) map[string]any {
	root := map[string]any{}
	for path, value := range values {
		at := root
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			next, ok := at[p].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[p] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = value
	}
	return root
}

// unknownVariables warns of variables that begin like ours and mean nothing. Those that Kubernetes sets for a Service
// called etcdkeeper are passed over.
func unknownVariables(environ []string, keys []Key) []string {
	known := map[string]bool{}
	var names []string
	for _, k := range keys {
		for _, n := range envNames(k) {
			known[n] = true
		}
		names = append(names, k.Env)
	}
	for _, n := range commandVariables {
		known[EnvPrefix+n] = true
		names = append(names, EnvPrefix+n)
	}
	var warnings []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, EnvPrefix) || known[name] || serviceVariable(strings.TrimPrefix(name, EnvPrefix)) {
			continue
		}
		w := fmt.Sprintf("unknown variable %s is ignored", name)
		if near := Nearest(name, names); near != "" {
			w += fmt.Sprintf(": did you mean %s?", near)
		}
		warnings = append(warnings, w)
	}
	slices.Sort(warnings)
	return warnings
}

func serviceVariable(rest string) bool {
	return rest == "SERVICE_HOST" || strings.HasPrefix(rest, "SERVICE_PORT") || rest == "PORT" || strings.HasPrefix(rest, "PORT_")
}

// mask stands for a secret.
const mask = "********"

// Text is the value as a person reads it; a secret is masked.
func (v Value) Text() string {
	text := v.Key.Format(v.Value)
	if v.Key.Secret && text != "" {
		return mask
	}
	if v.Key.Path == "etcd.user" {
		if name, _, ok := strings.Cut(text, ":"); ok {
			return name + ":" + mask
		}
	}
	return text
}

// Plain is the value for JSON: numbers, booleans, lists and maps as such, all else as text; a secret is masked.
func (v Value) Plain() any {
	t := v.Key.Type
	switch {
	case v.Key.Secret, isScalar(t) && t.Kind() == reflect.String, t == durationType, reflect.PointerTo(t).Implements(textUnmarshaler):
		return v.Text()
	case isScalar(t):
		return v.Value
	}
	var n yaml.Node
	encodeNode(reflect.ValueOf(v.Value), &n)
	var plain any
	if err := n.Decode(&plain); err != nil {
		return v.Text()
	}
	return plain
}
