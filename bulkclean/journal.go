package bulkclean

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"

	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
)

// Outcome is what became of one object of a plan.
type Outcome string

// Outcomes of an object.
const (
	Deleted Outcome = "deleted"
	Stayed  Outcome = "kept"    // it could have been deleted, and a rule of safety spoke against it
	Changed Outcome = "changed" // it is not what was planned: changed, made again, or gone already
	Broken  Outcome = "failed"
)

const journalVersion = 1

// ErrBusy is returned when another process applies the same plan.
var ErrBusy = errors.New("another etcdkeeper is applying this plan")

// entry is one line of a journal. Objects are named by their number in the plan.
type entry struct {
	Type string `json:"type"` // journal, run, intent, result, stop, done

	// journal
	Version int        `json:"version,omitempty"`
	Plan    string     `json:"plan,omitempty"` // Plan.ID
	File    string     `json:"file,omitempty"`
	Objects int64      `json:"objects,omitempty"`
	At      *time.Time `json:"at,omitempty"`

	// run
	Via    string `json:"via,omitempty"`
	Export string `json:"export,omitempty"`

	// intent: the objects From to To, both included, but for those that have a result, may be deleted from now on
	From *int `json:"from,omitempty"`
	To   *int `json:"to,omitempty"`

	// result
	N       *int    `json:"n,omitempty"`
	Outcome Outcome `json:"outcome,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

// Totals count outcomes.
type Totals struct {
	Deleted, Kept, Changed, Failed int64
	Bytes                          int64 // of the deleted
	Reasons                        map[string]int64
}

// maxReasons bounds the reasons that are told apart.
const maxReasons = 50

func (t *Totals) add(o Outcome, bytes int64, reason string, sign int64) {
	switch o {
	case Deleted:
		t.Deleted += sign
		t.Bytes += sign * bytes
		return
	case Stayed:
		t.Kept += sign
	case Changed:
		t.Changed += sign
	case Broken:
		t.Failed += sign
	}
	if t.Reasons == nil {
		t.Reasons = map[string]int64{}
	}
	if _, ok := t.Reasons[reason]; !ok && len(t.Reasons) >= maxReasons {
		reason = "other reasons"
	}
	if t.Reasons[reason] += sign; t.Reasons[reason] <= 0 {
		delete(t.Reasons, reason)
	}
}

// Count is how many objects have an outcome.
func (t *Totals) Count() int64 { return t.Deleted + t.Kept + t.Changed + t.Failed }

// journal is the record of what was intended and done, one JSON line each. It is locked while it is open for writing.
type journal struct {
	path   string
	file   *os.File
	w      *bufio.Writer
	totals Totals
	done   bitmap         // objects with a final outcome
	broken map[int]string // objects that failed, which another run tries again
	last   int            // the last object that was intended, -1 for none
	over   bool           // the plan was carried out whole
	began  time.Time
	latest time.Time
	via    string
	export string
}

// JournalPath is where the journal of a plan lies: beside it.
func JournalPath(plan string) string { return plan + ".journal" }

// openJournal opens or begins the journal of p and locks it. The journal of another plan that had the same name is
// moved aside.
func openJournal(path string, p *Plan, now time.Time) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("journal %s: %w", path, ErrBusy)
	}
	j, size, id, err := readJournal(path, file)
	if err != nil {
		file.Close()
		return nil, err
	}
	if id != "" && id != p.ID {
		err := os.Rename(path, path+"."+id)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("move the journal of an earlier plan aside: %w", err)
		}
		return openJournal(path, p, now)
	}
	// A line that was being written when the process was killed goes.
	if err := file.Truncate(size); err != nil {
		file.Close()
		return nil, fmt.Errorf("cut the journal's torn last line: %w", err)
	}
	if _, err := file.Seek(size, io.SeekStart); err != nil {
		file.Close()
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j.file, j.w = file, bufio.NewWriterSize(file, 64<<10)
	if size == 0 {
		at := now.UTC()
		err := errors.Join(j.write(entry{Type: "journal", Version: journalVersion, Plan: p.ID, File: filepath.Base(p.File), Objects: p.End.Objects, At: &at}),
			j.sync(), atomicfile.SyncDir(filepath.Dir(path)))
		if err != nil {
			file.Close()
			return nil, fmt.Errorf("begin the journal: %w", err)
		}
		j.began = at
	}
	return j, nil
}

// readJournal replays a journal and returns how many bytes of it are whole lines and which plan it is of.
func readJournal(path string, r io.Reader) (j *journal, size int64, plan string, err error) {
	j = &journal{path: path, last: -1, broken: map[int]string{}}
	br := bufio.NewReaderSize(r, 64<<10)
	bad := func(line int, err error) error {
		return fmt.Errorf("journal %s: line %d: %w: it is damaged; compare it with the export, and make a new plan", path, line, err)
	}
	for n := 1; ; n++ {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return j, size, plan, nil
		}
		if err != nil {
			return nil, 0, "", fmt.Errorf("read the journal: %w", err)
		}
		var e entry
		if uerr := json.Unmarshal(line, &e); uerr != nil {
			if _, eof := br.Peek(1); errors.Is(eof, io.EOF) {
				return j, size, plan, nil // torn, newline and all
			}
			return nil, 0, "", bad(n, uerr)
		}
		if (n == 1) != (e.Type == "journal") {
			return nil, 0, "", bad(n, fmt.Errorf("a line of type %q is not expected", e.Type))
		}
		if err := j.replay(&e, &plan); err != nil {
			return nil, 0, "", bad(n, err)
		}
		size += int64(len(line))
	}
}

func (j *journal) replay(e *entry, plan *string) error {
	if e.At != nil {
		j.latest = *e.At
	}
	switch e.Type {
	case "journal":
		if e.Version != journalVersion {
			return fmt.Errorf("version %d is not known", e.Version)
		}
		*plan = e.Plan
		if e.At != nil {
			j.began = *e.At
		}
	case "run":
		j.via, j.export, j.over = e.Via, e.Export, false
	case "intent":
		if e.To == nil {
			return errors.New("an intent without objects")
		}
		j.last = max(j.last, *e.To)
	case "result":
		if e.N == nil || *e.N < 0 {
			return errors.New("a result without an object")
		}
		j.note(*e.N, e.Outcome, e.Bytes, e.Reason)
	case "stop":
		j.last = -1 // a run ended in order: what has no result was not attempted
	case "done":
		j.over = true
	default:
		return fmt.Errorf("type %q is not known", e.Type)
	}
	return nil
}

// note counts a result. A failed one is replaced by the next.
func (j *journal) note(n int, o Outcome, size int64, reason string) {
	if j.done.has(n) {
		return
	}
	if why, ok := j.broken[n]; ok {
		j.totals.add(Broken, 0, why, -1)
		delete(j.broken, n)
	}
	j.totals.add(o, size, reason, 1)
	if o == Broken {
		j.broken[n] = reason
		return
	}
	j.done.set(n)
}

func (j *journal) write(e entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := j.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// flush hands everything that was written to the file.
func (j *journal) flush() error {
	if err := j.w.Flush(); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// settle makes what was flushed durable. It alone may be called while others write.
func (j *journal) settle() error {
	if err := fileutil.Fdatasync(j.file); err != nil {
		return fmt.Errorf("sync the journal: %w", err)
	}
	return nil
}

// sync makes everything that was written durable.
func (j *journal) sync() error {
	if err := j.flush(); err != nil {
		return err
	}
	return j.settle()
}

func (j *journal) run(via, export string, now time.Time) error {
	at := now.UTC()
	return errors.Join(j.write(entry{Type: "run", Via: via, Export: export, At: &at}), j.sync())
}

// intend has to be settled before one of the objects may be deleted.
func (j *journal) intend(from, to int) error {
	j.last = max(j.last, to)
	if err := j.write(entry{Type: "intent", From: &from, To: &to}); err != nil {
		return err
	}
	return j.flush()
}

// result is durable with the next sync. Where it is lost, the object is looked at again.
func (j *journal) result(n int, o Outcome, bytes int64, reason string) error {
	j.note(n, o, bytes, reason)
	return j.write(entry{Type: "result", N: &n, Outcome: o, Bytes: bytes, Reason: reason})
}

func (j *journal) finish(now time.Time) error {
	at := now.UTC()
	j.over = true
	return errors.Join(j.write(entry{Type: "done", At: &at}), j.sync())
}

func (j *journal) close() error {
	err := j.w.Flush()
	return errors.Join(err, j.file.Close())
}

// Status is what a journal says.
type Status struct {
	Journal  string           `json:"journal"`
	Plan     string           `json:"plan"`
	Via      string           `json:"via"`
	Export   string           `json:"export"`
	Began    *time.Time       `json:"began"`
	Finished bool             `json:"finished"`
	Running  bool             `json:"running"` // a process holds the journal
	Objects  int64            `json:"objects"`
	Deleted  int64            `json:"deleted"`
	Kept     int64            `json:"kept"`
	Changed  int64            `json:"changed"`
	Failed   int64            `json:"failed"`
	Left     int64            `json:"left"`
	Bytes    int64            `json:"bytes"`
	Reasons  map[string]int64 `json:"reasons"`
}

// ReadStatus reads a journal without touching it.
func ReadStatus(path string) (*Status, error) {
	data, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	defer data.Close()
	s := &Status{Journal: path, Reasons: map[string]int64{}}
	if err := syscall.Flock(int(data.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		s.Running = true
	}
	// The head names the plan file and counts its objects, which a replay has no use for.
	first, err := bufio.NewReader(data).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("journal %s: it has no head", path)
	}
	var head entry
	if err := json.Unmarshal(bytes.TrimSpace(first), &head); err != nil {
		return nil, fmt.Errorf("journal %s: line 1: %w", path, err)
	}
	if _, err := data.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	j, _, _, err := readJournal(path, data)
	if err != nil {
		return nil, err
	}
	s.Plan = filepath.Join(filepath.Dir(path), head.File)
	s.Via, s.Export, s.Finished, s.Objects = j.via, j.export, j.over, head.Objects
	if !j.began.IsZero() {
		s.Began = &j.began
	}
	t := j.totals
	s.Deleted, s.Kept, s.Changed, s.Failed, s.Bytes = t.Deleted, t.Kept, t.Changed, t.Failed, t.Bytes
	s.Left = head.Objects - t.Count()
	if t.Reasons != nil {
		s.Reasons = t.Reasons
	}
	return s, nil
}
