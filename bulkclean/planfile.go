package bulkclean

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"strings"
	"time"
)

// planVersion is the format of the plan file.
const planVersion = 1

// maxLine bounds one line of a plan, journal or export: an object of etcd's largest request in base64 and YAML.
const maxLine = 16 << 20

// Head is the first line of a plan.
type Head struct {
	Type          string    `json:"type"` // plan
	Version       int       `json:"version"`
	ClusterID     *string   `json:"clusterId"`     // hex; null for a plan made of a file
	KubeSystemUID *string   `json:"kubeSystemUid"` // null where there is no namespace kube-system
	Revision      int64     `json:"revision"`      // that was scanned
	OwnerRevision int64     `json:"ownerRevision"` // that the owners were read at, not before Revision
	Snapshot      string    `json:"snapshot,omitempty"`
	Selector      Selector  `json:"selector"`
	OlderThan     float64   `json:"olderThanSeconds"`
	Made          time.Time `json:"made"`
}

// Object is the line of one object that is to be deleted.
type Object struct {
	Type        string     `json:"type"` // object
	Key         string     `json:"key"`
	Namespace   string     `json:"namespace"`
	Name        string     `json:"name"`
	UID         string     `json:"uid"`
	ModRevision int64      `json:"modRevision"`
	Bytes       int64      `json:"bytes"` // key and value
	FinishedAt  time.Time  `json:"finishedAt"`
	Owner       OwnerState `json:"owner"`
	OwnerRefs   []OwnerRef `json:"ownerRefs,omitempty"`
	Finalizers  []string   `json:"finalizers,omitempty"`
	Reason      string     `json:"reason"`
}

// Kept is the line of one class of objects that stay.
type Kept struct {
	Type   string `json:"type"` // kept
	Class  Class  `json:"class"`
	Count  int64  `json:"count"`
	Bytes  int64  `json:"bytes"`
	Reason string `json:"reason"`
}

// End is the last line: a plan without it was cut off.
type End struct {
	Type       string `json:"type"` // end
	Objects    int64  `json:"objects"`
	Bytes      int64  `json:"bytes"`
	Pods       int64  `json:"pods"`       // all pods of the namespaces, where dependents were counted
	Dependents *int64 `json:"dependents"` // pods that the garbage collector will remove; null where not counted
}

// A PlanError says which line of a plan is not as it was written.
type PlanError struct {
	File string
	Line int
	Why  string
}

func (e *PlanError) Error() string {
	return fmt.Sprintf("plan %s: line %d: %s; make a new plan", e.File, e.Line, e.Why)
}

// chain carries a checksum from line to line, so that every line answers for all before it. It protects from accidents
// and careless edits, not from an attacker.
type chain struct {
	h    hash.Hash
	prev [8]byte
}

func newChain() *chain { return &chain{h: sha256.New()} }

const sumField = `,"sum":"`

// sum is the checksum of a line without its sum.
func (c *chain) sum(line []byte) string {
	c.h.Reset()
	c.h.Write(c.prev[:])
	c.h.Write(line)
	var out [sha256.Size]byte
	copy(c.prev[:], c.h.Sum(out[:0]))
	return hex.EncodeToString(c.prev[:])
}

// planWriter writes a plan file.
type planWriter struct {
	w     *bufio.Writer
	chain *chain
	end   End
}

func newPlanWriter(w io.Writer) *planWriter {
	return &planWriter{w: bufio.NewWriterSize(w, 64<<10), chain: newChain(), end: End{Type: "end"}}
}

func (p *planWriter) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	sum := p.chain.sum(b)
	b = append(b[:len(b)-1], sumField...)
	b = append(b, sum...)
	b = append(b, "\"}\n"...)
	if _, err := p.w.Write(b); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	return nil
}

func (p *planWriter) object(o *Object) error {
	o.Type = "object"
	p.end.Objects++
	p.end.Bytes += o.Bytes
	return p.line(o)
}

func (p *planWriter) close() error {
	if err := p.line(p.end); err != nil {
		return err
	}
	if err := p.w.Flush(); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	return nil
}

// Plan is a plan file that was read whole and found to be as it was written.
type Plan struct {
	File string
	Head Head
	Kept []Kept
	End  End
	// ID is the checksum of the last line, which answers for all lines: the plan's name in its journal and exports.
	ID string
}

// OpenPlan reads and checks a plan file. What is wrong with it is a *PlanError.
func OpenPlan(file string) (*Plan, error) {
	p := &Plan{File: file}
	ended := false
	lines := 0
	err := p.lines(func(n int, kind string, line []byte, sum string) error {
		lines = n
		if ended {
			return &PlanError{file, n, "there is something behind the plan's end"}
		}
		if (n == 1) != (kind == "plan") {
			return &PlanError{file, n, fmt.Sprintf("want the head in the first line and nowhere else, got a line of type %q", kind)}
		}
		var err error
		switch kind {
		case "plan":
			err = json.Unmarshal(line, &p.Head)
			p.Head.Selector.OlderThan = time.Duration(p.Head.OlderThan * float64(time.Second))
			if err == nil && p.Head.Version != planVersion {
				return &PlanError{file, n, fmt.Sprintf("the plan's format is version %d, this etcdkeeper reads version %d", p.Head.Version, planVersion)}
			}
			if err == nil {
				if verr := p.Head.Selector.Validate(); verr != nil {
					return &PlanError{file, n, fmt.Sprintf("the selector: %v", verr)}
				}
			}
		case "object":
			p.End.Objects--
			var o Object
			if err = json.Unmarshal(line, &o); err == nil {
				p.End.Bytes -= o.Bytes
				err = p.Head.check(&o)
			}
		case "kept":
			var k Kept
			err = json.Unmarshal(line, &k)
			p.Kept = append(p.Kept, k)
		case "end":
			ended = true
			var e End
			err = json.Unmarshal(line, &e)
			if err == nil && (e.Objects+p.End.Objects != 0 || e.Bytes+p.End.Bytes != 0) {
				return &PlanError{file, n, fmt.Sprintf("the end counts %d objects, the plan has %d", e.Objects, -p.End.Objects)}
			}
			p.End, p.ID = e, sum
		default:
			return &PlanError{file, n, fmt.Sprintf("type %q is not known", kind)}
		}
		if err != nil {
			return &PlanError{file, n, err.Error()}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case !ended:
		return nil, &PlanError{file, lines + 1, "the plan ends without its end line: it was cut off"}
	}
	return p, nil
}

// check tells whether an object can be of this plan at all.
func (h *Head) check(o *Object) error {
	kind, err := KindByName(h.Selector.Kind)
	if err != nil {
		return err
	}
	ns, name, ok := kind.split(h.Selector.Registry, o.Key)
	switch {
	case !ok || ns != o.Namespace || name != o.Name:
		return fmt.Errorf("key %q is not that of %s %s/%s", o.Key, h.Selector.Kind, o.Namespace, o.Name)
	case o.UID == "" || o.ModRevision <= 0:
		return errors.New("an object without a uid and a revision cannot be told from another")
	}
	return nil
}

// Objects yields the plan's objects in order, numbered from 0, and checks every line again.
func (p *Plan) Objects() iter.Seq2[*Object, error] {
	return func(yield func(*Object, error) bool) {
		stop := errors.New("stop")
		last := ""
		err := p.lines(func(n int, kind string, line []byte, sum string) error {
			last = sum
			if kind != "object" {
				return nil
			}
			o := new(Object)
			if err := json.Unmarshal(line, o); err != nil {
				return &PlanError{p.File, n, err.Error()}
			}
			if !yield(o, nil) {
				return stop
			}
			return nil
		})
		switch {
		case errors.Is(err, stop):
		case err != nil:
			yield(nil, err)
		case last != p.ID:
			yield(nil, fmt.Errorf("plan %s: it was replaced while it was read; make a new plan", p.File))
		}
	}
}

// lines reads the file and checks the checksum of every line.
func (p *Plan) lines(f func(n int, kind string, line []byte, sum string) error) error {
	file, err := os.Open(p.File)
	if err != nil {
		return fmt.Errorf("open the plan: %w", err)
	}
	defer file.Close()
	sc := bufio.NewScanner(file)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	c := newChain()
	n := 0
	for sc.Scan() {
		n++
		body, sum, ok := cutSum(sc.Bytes())
		if !ok {
			return &PlanError{p.File, n, "it is cut off or edited: it has no checksum at its end"}
		}
		if want := c.sum(body); sum != want {
			return &PlanError{p.File, n, "its checksum is wrong: this line was edited, or one before it removed, added or moved"}
		}
		kind, err := typeOf(body)
		if err != nil {
			return &PlanError{p.File, n, err.Error()}
		}
		if err := f(n, kind, body, sum); err != nil {
			return err
		}
	}
	switch err := sc.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return &PlanError{p.File, n + 1, "it is too long"}
	case err != nil:
		return fmt.Errorf("read the plan: %w", err)
	}
	return nil
}

// typeOf is the type of a line. That of an object is seen at once: there are as many as deletions.
func typeOf(line []byte) (string, error) {
	if bytes.HasPrefix(line, []byte(`{"type":"object",`)) {
		return "object", nil
	}
	var t struct {
		Type string `json:"type"`
	}
	err := json.Unmarshal(line, &t)
	return t.Type, err
}

// cutSum takes the checksum off a line.
func cutSum(line []byte) (body []byte, sum string, ok bool) {
	i := bytes.LastIndex(line, []byte(sumField))
	if i < 0 {
		return nil, "", false
	}
	sum, ok = strings.CutSuffix(string(line[i+len(sumField):]), `"}`)
	if !ok || len(sum) != 16 {
		return nil, "", false
	}
	return append(bytes.Clone(line[:i]), '}'), sum, true
}
