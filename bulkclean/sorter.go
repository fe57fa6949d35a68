package bulkclean

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"os"
	"slices"
)

// record is what is sorted: three numbers, compared in this order.
type record [3]uint64

func compareRecords(a, b record) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]), cmp.Compare(a[2], b[2]))
}

// sorterChunk is how many records are sorted in memory, 1.5 MiB of them.
const sorterChunk = 64 << 10

// sorter sorts any number of records in the memory of a chunk: full chunks go sorted to a temporary file and are merged
// at the end.
type sorter struct {
	dir   string
	chunk []record
	file  *os.File
	runs  []int64 // records in each run of the file
	err   error
}

func newSorter(dir string) *sorter { return &sorter{dir: dir} }

// add takes a record. An error waits for sorted.
func (s *sorter) add(r record) {
	s.chunk = append(s.chunk, r)
	if len(s.chunk) == sorterChunk {
		s.err = errors.Join(s.err, s.flush())
	}
}

func (s *sorter) flush() error {
	slices.SortFunc(s.chunk, compareRecords)
	if s.file == nil {
		f, err := tempFile(s.dir)
		if err != nil {
			return err
		}
		s.file = f
	}
	w := bufio.NewWriterSize(s.file, 64<<10)
	for i := range s.chunk {
		if err := binary.Write(w, binary.LittleEndian, s.chunk[i][:]); err != nil {
			return fmt.Errorf("write a temporary file: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	s.runs = append(s.runs, int64(len(s.chunk)))
	s.chunk = s.chunk[:0]
	return nil
}

// sorted yields the records in order, once.
func (s *sorter) sorted() iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		if s.err != nil {
			yield(record{}, s.err)
			return
		}
		slices.SortFunc(s.chunk, compareRecords)
		runs := []*run{{memory: s.chunk}}
		var offset int64
		for _, n := range s.runs {
			size := n * 24
			runs = append(runs, &run{file: bufio.NewReaderSize(io.NewSectionReader(s.file, offset, size), 16<<10)})
			offset += size
		}
		live := runs[:0]
		for _, r := range runs {
			ok, err := r.next()
			if err != nil {
				yield(record{}, err)
				return
			}
			if ok {
				live = append(live, r)
			}
		}
		for len(live) > 0 {
			least := 0
			for i := range live {
				if compareRecords(live[i].head, live[least].head) < 0 {
					least = i
				}
			}
			if !yield(live[least].head, nil) {
				return
			}
			ok, err := live[least].next()
			if err != nil {
				yield(record{}, err)
				return
			}
			if !ok {
				live = slices.Delete(live, least, least+1)
			}
		}
	}
}

// close removes the temporary file.
func (s *sorter) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// run is one sorted sequence of the merge.
type run struct {
	head   record
	memory []record
	file   *bufio.Reader
}

func (r *run) next() (bool, error) {
	if r.file == nil {
		if len(r.memory) == 0 {
			return false, nil
		}
		r.head, r.memory = r.memory[0], r.memory[1:]
		return true, nil
	}
	var b [24]byte
	if _, err := io.ReadFull(r.file, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return false, fmt.Errorf("read a temporary file: %w", err)
	}
	for i := range r.head {
		r.head[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return true, nil
}

// tempFile makes a file that has no name any more: it goes with the process.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".etcdkeeper-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return f, nil
}

// hasher makes a number of strings, the same within one run.
type hasher struct{ seed maphash.Seed }

func newHasher() hasher { return hasher{maphash.MakeSeed()} }

func (h hasher) of(parts ...string) uint64 {
	var m maphash.Hash
	m.SetSeed(h.seed)
	for _, p := range parts {
		m.WriteString(p)
		m.WriteByte(0)
	}
	return m.Sum64()
}

// bitmap is a set of small numbers.
type bitmap []uint64

func (b *bitmap) set(i int) {
	for len(*b) <= i/64 {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

func (b bitmap) has(i int) bool { return i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }
