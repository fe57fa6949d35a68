package main

import (
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// openSnapshot reads a keyspace from a file.
func openSnapshot(path string) (keyspace.Scanner, func(), error) {
	f, err := keyspace.OpenFile(path)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { _ = f.Close() }, nil
}
