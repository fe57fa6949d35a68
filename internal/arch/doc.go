// Package arch holds the tests that keep imports pointing in the directions
// that docs/ARCHITECTURE.md describes. It has no code of its own.
package arch
