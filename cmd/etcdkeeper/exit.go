package main

import (
	"errors"
	"fmt"
)

// The exit codes, the same for every command.
const (
	exitDone        = 0   // done, or nothing to do
	exitFailed      = 1   // failed
	exitUsage       = 2   // bad flags or config
	exitRefused     = 3   // a safety gate refused and nothing was changed
	exitPartial     = 4   // stopped part-way; the report says where, and how to resume
	exitFindings    = 5   // findings, or work to do
	exitInterrupted = 130 // interrupted before anything was changed
)

const exitHelp = `Exit codes:
  0    done, or nothing to do
  1    failed
  2    bad flags or config
  3    a safety gate refused and nothing was changed
  4    stopped part-way: the report says where, and how to resume
  5    findings or work to do
  130  interrupted before anything was changed`

// exitError carries the exit code of a command. A nil err ends silently with the code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// withCode makes err end the command with code.
func withCode(code int, err error) error { return &exitError{code: code, err: err} }

// usagef is an error in what the user typed.
func usagef(format string, args ...any) error {
	return withCode(exitUsage, fmt.Errorf(format, args...))
}

// exitCode finds the code that err stands for.
func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &e):
		return e.code
	}
	return exitFailed
}
