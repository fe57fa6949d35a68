//go:build !linux

package main

// forgetStartupPages does nothing where the system has no such advice.
func forgetStartupPages() error { return nil }
