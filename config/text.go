package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/etcdkeeper/etcdkeeper/schedule"
)

// ParseText reads the text form of a key's value, as a flag or a variable gives it. Lists and NAME=VALUE maps are
// parted by commas; what has a deeper structure is YAML.
func (k Key) ParseText(text string) (any, error) {
	v := reflect.New(k.Type).Elem()
	if err := setText(v, text); err != nil {
		return nil, err
	}
	return v.Interface(), nil
}

// Format is the text form of a key's value: ParseText's counterpart.
func (k Key) Format(value any) string { return formatText(reflect.ValueOf(value)) }

func setText(v reflect.Value, text string) error {
	t := v.Type()
	if isScalar(t) {
		return setScalar(v, text)
	}
	switch {
	case t.Kind() == reflect.Slice && isScalar(t.Elem()):
		out := reflect.MakeSlice(t, 0, 1)
		for _, word := range splitList(text) {
			e := reflect.New(t.Elem()).Elem()
			if err := setScalar(e, word); err != nil {
				return err
			}
			out = reflect.Append(out, e)
		}
		v.Set(out)
		return nil
	case t.Kind() == reflect.Map && isScalar(t.Elem()):
		out := reflect.MakeMap(t)
		for _, word := range splitList(text) {
			name, val, ok := strings.Cut(word, "=")
			if !ok || name == "" {
				return fmt.Errorf("%q: want NAME=VALUE", word)
			}
			e := reflect.New(t.Elem()).Elem()
			if err := setScalar(e, val); err != nil {
				return err
			}
			out.SetMapIndex(reflect.ValueOf(name).Convert(t.Key()), e)
		}
		v.Set(out)
		return nil
	}
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil {
		return fmt.Errorf("want YAML: %w", err)
	}
	if len(node.Content) == 0 {
		v.SetZero()
		return nil
	}
	d := decoder{}
	d.decode(node.Content[0], v, "value")
	return errors.Join(d.problems...)
}

func splitList(text string) []string {
	var out []string
	for word := range strings.SplitSeq(text, ",") {
		if word = strings.TrimSpace(word); word != "" {
			out = append(out, word)
		}
	}
	return out
}

func setScalar(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	if v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q: want a duration such as 90s, 10m or 1h30m", text)
		}
		v.SetInt(int64(d))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q: want true or false", text)
		}
		v.SetBool(b)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q: want a number", text)
		}
		v.SetFloat(f)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q: want a whole number of 0 or more", text)
		}
		v.SetUint(n)
	default:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q: want a whole number", text)
		}
		v.SetInt(n)
	}
	return nil
}

func formatText(v reflect.Value) string {
	if !v.IsValid() {
		return ""
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return schedule.FormatDuration(x)
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return err.Error()
		}
		return string(text)
	case fmt.Stringer:
		if isScalar(v.Type()) {
			return x.String()
		}
	}
	switch {
	case v.Kind() == reflect.Float64 || v.Kind() == reflect.Float32:
		return strconv.FormatFloat(v.Float(), 'f', -1, v.Type().Bits())
	case isScalar(v.Type()):
		return fmt.Sprint(v.Interface())
	case v.Kind() == reflect.Slice && isScalar(v.Type().Elem()):
		var words []string
		for i := range v.Len() {
			words = append(words, formatText(v.Index(i)))
		}
		return strings.Join(words, ",")
	case v.Kind() == reflect.Map && isScalar(v.Type().Elem()):
		var words []string
		for _, key := range v.MapKeys() {
			words = append(words, key.String()+"="+formatText(v.MapIndex(key)))
		}
		slices.Sort(words)
		return strings.Join(words, ",")
	}
	return flowYAML(v)
}
