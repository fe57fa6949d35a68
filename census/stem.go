package census

import (
	"bytes"
	"slices"
	"strings"
)

// StemOf cuts the generated parts off the end of a name: numbers, times, hashes, uuids and the random suffixes of
// generateName. What is left is a slice of name; the whole name where nothing looks generated.
//
// The parts of a name are what stands between dashes, dots, colons and underscores. A part is taken for generated if
// it is a number, has six or more hexadecimal digits with a numeral among them, or is made of the 27 letters and
// numerals alone that Kubernetes makes suffixes of (k8s.io/apimachinery/pkg/util/rand), 5 to 10 of them, with a
// numeral or without a second thought where it stands last.
func StemOf(name []byte) []byte {
	end := len(name)
	for first := true; ; first = false {
		at := end - 1
		for at > 0 && !partEnd[name[at]] {
			at--
		}
		if at <= 0 || !generated(name[at+1:end], first) {
			return name[:end]
		}
		end = at
	}
}

const maxSuffix = 10

// suffixBytes are the letters of Kubernetes' random names: no vowels, no numerals that look like them.
var suffixBytes, hexBytes = byteTable("bcdfghjklmnpqrstvwxz2456789"), byteTable("0123456789abcdefABCDEF")

// partEnd are the bytes between the parts of a name.
var partEnd = byteTable("-._:")

func byteTable(s string) (t [256]bool) {
	for i := range len(s) {
		t[s[i]] = true
	}
	return t
}

func generated(part []byte, last bool) bool {
	if len(part) == 0 {
		return false
	}
	numerals, hex, suffix := 0, true, len(part) >= 5 && len(part) <= maxSuffix
	for _, c := range part {
		if c >= '0' && c <= '9' {
			numerals++
		}
		hex = hex && hexBytes[c]
		suffix = suffix && suffixBytes[c]
	}
	switch {
	case numerals == len(part):
		return true
	case numerals > 0 && hex && len(part) >= 6:
		return true
	case suffix && (numerals > 0 || last && len(part) == 5):
		return true
	case part[0] == 'v' && numerals == len(part)-1:
		return true // a version, as in sh.helm.release.v1.name.v12
	}
	// A time of day, as in 20260101t0300.
	return numerals >= 8 && numerals >= len(part)-2
}

// maxStems bounds the table of stems. Beyond it, those with the fewest keys make room, which can only lower counts.
const maxStems = 20_000

type stems struct {
	table  map[stemKey]*stemCount
	cell   *cell
	last   []byte // the stem of the last key
	count  *stemCount
	pruned bool
}

type stemKey struct {
	cell *cell
	stem string // with what divides it from the generated part
}

type stemCount struct{ keys, bytes int64 }

func (s *stems) init() { s.table = map[stemKey]*stemCount{} }

func (s *stems) add(c *cell, name []byte, size int64) {
	stem := StemOf(name)
	if len(stem) == len(name) || c.folded {
		return
	}
	stem = name[:len(stem)+1] // with what divides it from the generated part
	if s.cell != c || !bytes.Equal(stem, s.last) {
		// The map is asked without making a string of the stem.
		count := s.table[stemKey{c, string(stem)}]
		if count == nil {
			if len(s.table) >= maxStems {
				s.prune()
			}
			count = new(stemCount)
			s.table[stemKey{c, string(stem)}] = count
		}
		s.cell, s.last, s.count = c, append(s.last[:0], stem...), count
	}
	s.count.keys++
	s.count.bytes += size
}

// prune drops the rarer half.
func (s *stems) prune() {
	s.pruned = true
	s.cell = nil
	counts := make([]int64, 0, len(s.table))
	for _, c := range s.table {
		counts = append(counts, c.keys)
	}
	slices.Sort(counts)
	middle := counts[len(counts)/2]
	for k, c := range s.table {
		if c.keys <= middle {
			delete(s.table, k)
		}
	}
}

func (s *stems) top(n int) []Stem {
	out := make([]Stem, 0, len(s.table))
	for k, c := range s.table {
		if c.keys > 1 {
			out = append(out, Stem{Group: k.cell.res.group, Resource: k.cell.res.resource, Namespace: Printable(k.cell.name),
				Stem: Printable(k.stem) + "…", Keys: c.keys, Bytes: c.bytes})
		}
	}
	slices.SortFunc(out, func(a, b Stem) int {
		switch {
		case a.Keys != b.Keys:
			return int(b.Keys - a.Keys)
		case a.Bytes != b.Bytes:
			return int(b.Bytes - a.Bytes)
		}
		return strings.Compare(a.Resource+"/"+a.Namespace+"/"+a.Stem, b.Resource+"/"+b.Namespace+"/"+b.Stem)
	})
	return out[:min(n, len(out))]
}
