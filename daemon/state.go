package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/atomicfile"
)

// stateVersion is that of the file's form. A reader of another version leaves the file alone.
const stateVersion = 1

// stateName is the file in stateDir.
const stateName = "watch.json"

// saveEvery bounds what a crash loses, and what is written beside an etcd that needs its disk.
const saveEvery = 5 * time.Minute

type stateContent struct {
	Version   int                    `json:"version"`
	ClusterID cluster.ID             `json:"clusterId"`
	Saved     time.Time              `json:"saved"`
	Members   map[cluster.ID]*series `json:"members"`
}

// stateFile keeps the series in stateDir. Its problems never stop the keeper: they are told, and the series stays in
// memory.
type stateFile struct {
	path    string // "" where there is no stateDir
	refused string // why it must not be written: a newer version wrote it
}

// load reads the file. problem says in words what is wrong with it; a file that cannot be read as what it should be is
// moved aside, so that it can be looked at and is not lost.
func (f *stateFile) load() (content stateContent, problem string) {
	if f.path == "" {
		return stateContent{}, ""
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return stateContent{}, fmt.Sprintf("the state directory cannot be made, the size series is kept in memory only: %v", err)
	}
	data, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return stateContent{}, ""
	case err != nil:
		return stateContent{}, fmt.Sprintf("the state file cannot be read, the size series starts anew: %v", err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err = json.Unmarshal(data, &head); err == nil {
		if head.Version > stateVersion {
			f.refused = fmt.Sprintf("%s was written by a newer version (%d, this one knows %d): it is left alone, the size series is kept in memory only", f.path, head.Version, stateVersion)
			return stateContent{}, f.refused
		}
		if head.Version < 1 {
			err = fmt.Errorf("version %d", head.Version)
		} else {
			err = json.Unmarshal(data, &content)
		}
	}
	if err != nil {
		aside := f.path + ".broken"
		if moved := os.Rename(f.path, aside); moved != nil {
			return stateContent{}, fmt.Sprintf("%s is torn or no state file (%v) and cannot be moved aside, the size series starts anew: %v", f.path, err, moved)
		}
		return stateContent{}, fmt.Sprintf("%s is torn or no state file (%v): it is kept as %s, the size series starts anew", f.path, err, aside)
	}
	return content, ""
}

// save writes the file atomically.
func (f *stateFile) save(data []byte) error {
	if f.refused != "" {
		return errors.New(f.refused)
	}
	return atomicfile.Write(f.path, data, 0o644)
}
