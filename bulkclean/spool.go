package bulkclean

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
)

// spool is a temporary file of candidates.
type spool struct {
	file *os.File
	w    *bufio.Writer
	enc  *json.Encoder
}

func newSpool(dir string) (*spool, error) {
	f, err := tempFile(dir)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 64<<10)
	return &spool{file: f, w: w, enc: json.NewEncoder(w)}, nil
}

func (s *spool) add(c *candidate) error {
	if err := s.enc.Encode(c); err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	return nil
}

func (s *spool) flush() error {
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	return nil
}

// all yields what was added, from the beginning.
func (s *spool) all() iter.Seq2[*candidate, error] {
	return func(yield func(*candidate, error) bool) {
		dec := json.NewDecoder(bufio.NewReaderSize(io.NewSectionReader(s.file, 0, math.MaxInt64), 64<<10))
		for {
			c := new(candidate)
			err := dec.Decode(c)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				err = fmt.Errorf("read a temporary file: %w", err)
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}
