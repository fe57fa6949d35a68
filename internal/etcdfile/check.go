package etcdfile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// CheckSnapshot tells whether a snapshot file is whole: the checksum that etcd appends fits, and etcdutl's status
// reads it from end to end.
func CheckSnapshot(path string) error {
	if err := checkSum(path); err != nil {
		return err
	}
	return recovered(func() error {
		_, err := snapshot.NewV3(zap.NewNop()).Status(path)
		return err
	})
}

func checkSum(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size()%512 != sha256.Size {
		return fmt.Errorf("%d bytes are not a database with a checksum: the snapshot was cut", info.Size())
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, info.Size()-sha256.Size); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return errors.New("the checksum does not fit: the snapshot is damaged")
	}
	return nil
}

// recovered makes the panics with which etcd's libraries answer a bad file errors.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not a readable etcd database: %v", p)
		}
	}()
	return f()
}
