//go:build nodemo || !unix

package main

import "github.com/spf13/cobra"

// demoCommands is empty: a binary built with -tags nodemo carries no etcd server.
func demoCommands(*app) []*cobra.Command { return nil }
