//go:build !linux

package etcdfile

import "os"

// asOwner calls f, unless the files that it makes would not belong to the owner of the file that info is of.
func asOwner(info os.FileInfo, f func() error) error {
	if uid, _, ok := owner(info); ok && uid != os.Geteuid() {
		return errNotOwner(uid)
	}
	return f()
}
