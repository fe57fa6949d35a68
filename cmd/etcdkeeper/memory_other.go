//go:build !linux

package main

// forgetExecutablePages does nothing where the system has no such advice.
func forgetExecutablePages() error { return nil }
