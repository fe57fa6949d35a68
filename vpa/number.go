package vpa

import (
	"fmt"
	"math"
	"strconv"
)

// Number is a float64 whose JSON is null when it is not known (NaN or infinite).
type Number float64

// MarshalJSON writes the number, or null; from 1000 on it is rounded to a whole one.
func (n Number) MarshalJSON() ([]byte, error) {
	if !finite(float64(n)) {
		return []byte("null"), nil
	}
	v := float64(n)
	if math.Abs(v) >= 1000 { // sizes: whole bytes
		v = math.Round(v)
	}
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return strconv.AppendInt(nil, int64(v), 10), nil
	}
	return strconv.AppendFloat(nil, v, 'g', -1, 64), nil
}

// UnmarshalJSON reads a number, or null as NaN.
func (n *Number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	v, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return err
	}
	*n = Number(v)
	return nil
}

// Format prints the number divided by unit, and – when it is not known.
func (n Number) Format(format string, unit float64) string {
	if !finite(float64(n)) {
		return "–"
	}
	return fmt.Sprintf(format, float64(n)/unit)
}

// Bytes is the number rounded, nil when it is not known.
func (n Number) Bytes() *int64 {
	if !finite(float64(n)) {
		return nil
	}
	v := int64(math.Round(float64(n)))
	return &v
}
