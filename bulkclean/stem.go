package bulkclean

import "strings"

// Stem is what the names of a series have in common: name without the parts at its end that were generated (numbers,
// the random five characters of generateName, hashes, uuids and the like with a digit). Parts are told apart by dashes and,
// as in the names of events, by dots. It is never empty for a name.
func Stem(name string) string {
	for {
		i := strings.LastIndexAny(name, separators)
		if i <= 0 || !generated(name[i+1:]) {
			return name
		}
		name = name[:i]
	}
}

const separators = "-."

// generated tells whether a part of a name looks made by a program.
func generated(s string) bool {
	digits, hex, random, vowels := 0, true, len(s) == 5, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		isDigit := c >= '0' && c <= '9'
		if isDigit {
			digits++
		}
		if !isDigit && (c < 'a' || c > 'f') {
			hex = false
		}
		vowels = vowels || strings.IndexByte("aeiou", c) >= 0
		// The alphabet of Kubernetes' generated names: no vowels, and no 0, 1 and 3.
		if strings.IndexByte("bcdfghjklmnpqrstvwxz2456789", c) < 0 {
			random = false
		}
	}
	switch {
	case s == "":
		return true // a name cut off at a dash
	case digits == len(s), random:
		return true
	}
	return digits > 0 && (hex && len(s) >= 4 || !vowels && len(s) >= 5)
}

// hasStem tells whether name is stem, followed by nothing but generated parts.
func hasStem(name, stem string) bool {
	rest, ok := strings.CutPrefix(name, stem)
	if !ok || rest == "" {
		return ok
	}
	if strings.IndexByte(separators, rest[0]) < 0 {
		return false
	}
	for part := range strings.FieldsFuncSeq(rest, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		if !generated(part) {
			return false
		}
	}
	return true
}
