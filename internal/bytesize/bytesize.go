// Package bytesize reads and writes sizes in configuration: a plain number of bytes, or a number with a unit
// (decimal kB, MB, GB or binary KiB, MiB, GiB).
package bytesize

import (
	"fmt"
	"math"
	"strings"

	"github.com/dustin/go-humanize"
)

// Bytes is a number of bytes. Its text form uses binary units where they are exact and plain bytes elsewhere, so that
// writing and reading a value gives the same value.
type Bytes int64

// Sizes in binary units.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

// Parse reads a size such as "100MiB", "1.5GB" or "1048576". It refuses negative numbers and what does not fit 63 bits.
func Parse(s string) (Bytes, error) {
	n, err := humanize.ParseBytes(strings.TrimSpace(s))
	if err != nil {
		return 0, fmt.Errorf("size %q: want a number of bytes or one with a unit, such as 100MiB or 2GB", s)
	}
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("size %q: too large", s)
	}
	return Bytes(n), nil
}

// UnmarshalText is Parse.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := Parse(string(text))
	if err != nil {
		return err
	}
	*b = v
	return nil
}

// MarshalText is String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String is exact: Parse(b.String()) == b.
func (b Bytes) String() string {
	switch {
	case b != 0 && b%GiB == 0:
		return fmt.Sprintf("%dGiB", b/GiB)
	case b != 0 && b%MiB == 0:
		return fmt.Sprintf("%dMiB", b/MiB)
	case b != 0 && b%KiB == 0:
		return fmt.Sprintf("%dKiB", b/KiB)
	}
	return fmt.Sprintf("%d", int64(b))
}

// Human is a rounded form for people, such as "1.4 GiB".
func (b Bytes) Human() string {
	if b < 0 {
		return "-" + humanize.IBytes(uint64(-b))
	}
	return humanize.IBytes(uint64(b))
}
