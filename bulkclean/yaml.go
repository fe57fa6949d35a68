package bulkclean

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
)

// maxYAMLDepth is deeper than any object of Kubernetes; the indentation of what is deeper would grow with its square.
const maxYAMLDepth = 64

var errYAML = errors.New("the JSON cannot be written as YAML")

// toYAML writes valid JSON as block YAML in the order of the JSON, without metadata.managedFields, which nobody reads. It
// goes over the text once: it is made of every object that is deleted, and a general YAML library takes as long for one Job as
// etcd takes to delete twenty.
func toYAML(text []byte) (string, error) {
	y := yamlWriter{text: text}
	y.out.Grow(len(text) + len(text)/2)
	if err := y.value(0, false); err != nil {
		return "", err
	}
	return y.out.String(), nil
}

// yamlWriter converts valid JSON from pos on.
type yamlWriter struct {
	text []byte
	pos  int
	out  strings.Builder
	// section is the name, in quotes, of the top level's key that is being written.
	section string
}

// next is the first byte that is not white space, and stays where it is.
func (y *yamlWriter) next() byte {
	for y.text[y.pos] <= ' ' {
		y.pos++
	}
	return y.text[y.pos]
}

// value writes a value behind "key:" (where key is set), behind "- ", or at the beginning. The lines of a mapping begin
// at indent, those of a list that is a key's value one step to the left of it.
func (y *yamlWriter) value(indent int, key bool) error {
	if indent > maxYAMLDepth {
		return errYAML
	}
	switch c := y.next(); c {
	case '{':
		return y.object(indent, key)
	case '[':
		return y.list(indent, key)
	case '"':
		y.space(key)
		y.scalar(y.token())
	default:
		y.space(key)
		y.out.Write(y.token())
	}
	y.out.WriteByte('\n')
	return nil
}

func (y *yamlWriter) space(key bool) {
	if key {
		y.out.WriteByte(' ')
	}
}

func (y *yamlWriter) object(indent int, key bool) error {
	y.pos++
	wrote := false
	for y.next() != '}' {
		name := y.token()
		y.next() // the colon
		y.pos++
		if indent == 0 {
			y.section = string(name)
		}
		if indent == 1 && y.section == `"metadata"` && string(name) == `"managedFields"` {
			if err := y.skip(); err != nil {
				return err
			}
		} else {
			y.begin(indent, key, wrote)
			wrote = true
			y.scalar(name)
			y.out.WriteByte(':')
			if err := y.value(indent+1, true); err != nil {
				return err
			}
		}
		y.comma()
	}
	y.end(key, wrote, "{}\n")
	return nil
}

// comma passes over the one between two entries.
func (y *yamlWriter) comma() {
	if y.next() == ',' {
		y.pos++
	}
}

// end passes over the closing bracket, and writes what stands for no entry where none was written.
func (y *yamlWriter) end(key, wrote bool, empty string) {
	y.pos++
	if !wrote {
		y.space(key)
		y.out.WriteString(empty)
	}
}

// begin begins a line of a mapping or list: the first one continues the line of a "- ".
func (y *yamlWriter) begin(indent int, key, wrote bool) {
	if key && !wrote {
		y.out.WriteByte('\n')
	}
	if key || wrote {
		y.pad(indent)
	}
}

func (y *yamlWriter) list(indent int, key bool) error {
	y.pos++
	if key {
		indent--
	}
	wrote := false
	for y.next() != ']' {
		y.begin(indent, key, wrote)
		wrote = true
		y.out.WriteString("- ")
		if err := y.value(indent+1, false); err != nil {
			return err
		}
		y.comma()
	}
	y.end(key, wrote, "[]\n")
	return nil
}

// skip passes over a value.
func (y *yamlWriter) skip() error {
	scratch := yamlWriter{text: y.text, pos: y.pos, section: y.section}
	err := scratch.value(2, true)
	y.pos = scratch.pos
	return err
}

// token is the string, number or word at pos.
func (y *yamlWriter) token() []byte {
	start := y.pos
	if y.text[y.pos] == '"' {
		for y.pos++; y.text[y.pos] != '"'; y.pos++ {
			if y.text[y.pos] == '\\' {
				y.pos++
			}
		}
		y.pos++
		return y.text[start:y.pos]
	}
	for y.pos < len(y.text) && strings.IndexByte(",]} \t\r\n", y.text[y.pos]) < 0 {
		y.pos++
	}
	return y.text[start:y.pos]
}

func (y *yamlWriter) pad(indent int) {
	for range indent {
		y.out.WriteString("  ")
	}
}

// scalar writes a JSON string: plainly what cannot be taken for anything else, and the rest in quotes.
func (y *yamlWriter) scalar(quoted []byte) {
	raw := quoted[1 : len(quoted)-1]
	switch {
	case plain(raw):
		y.out.Write(raw)
	case simple(raw):
		y.out.Write(quoted)
	default:
		var s string
		// Go's escapes are YAML's too, which JSON's pairs of surrogates are not. Valid JSON does not fail here.
		_ = json.Unmarshal(quoted, &s)
		y.out.WriteString(strconv.Quote(s))
	}
}

// simple tells whether the string means the same in JSON and in YAML when it is quoted.
func simple(s []byte) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' {
			if i++; strings.IndexByte(`nrt"\`, s[i]) < 0 {
				return false
			}
		} else if c < ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

func plain(s []byte) bool {
	if len(s) == 0 || len(s) > 256 {
		return false
	}
	for i, c := range s {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '/')) {
			return false
		}
	}
	if len(s) <= len("false") {
		switch strings.ToLower(string(s)) {
		case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
			return false
		}
	}
	return true
}
