package config

import (
	"fmt"
	"slices"
	"strings"
)

// suggest asks ": did you mean X?" with the known name nearest to name. Where none is near, the key may be of another
// version: it lists the known names where they are few, else it says what does.
func suggest(prefix, name string, known []string) string {
	if near := Nearest(name, known); near != "" {
		return fmt.Sprintf(": did you mean %s%s?", prefix, near)
	}
	if len(known) > 0 && len(known) <= 16 {
		sorted := slices.Clone(known)
		slices.Sort(sorted)
		return ": known here are " + strings.Join(sorted, ", ")
	}
	return ": 'etcdkeeper config print' lists the keys of this version"
}

// Nearest is the one of known that name was probably meant to be; "" where none is near.
func Nearest(name string, known []string) string {
	best, bestDistance := "", len(name)/2+1 // more than half of it wrong is another word
	if bestDistance > 5 {
		bestDistance = 5
	}
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best != "" {
		return best
	}
	for _, k := range known { // a name without its first or last word
		a, b := strings.ToLower(name), strings.ToLower(k)
		if len(a) >= 3 && (strings.HasSuffix(b, a) || strings.HasPrefix(b, a) || (len(b) >= 3 && (strings.HasSuffix(a, b) || strings.HasPrefix(a, b)))) {
			return k
		}
	}
	return ""
}

// distance is the number of insertions, deletions and changes of a byte that make a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		corner := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := corner
			if a[i-1] != b[j-1] {
				cost++
			}
			corner = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
