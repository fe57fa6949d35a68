package defrag

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdfile"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// offlineChild is the data directory that a child process of the test defragments.
const offlineChild = "ETCDKEEPER_TEST_OFFLINE"

// defragmentForEver is the child process: it is killed somewhere in the middle.
func defragmentForEver(dir string) {
	for {
		if err := etcdfile.Defragment(context.Background(), dir); err != nil {
			os.Exit(3)
		}
	}
}

// stopped is the data directory of a member that had 3 MB of keys, of which the last third is left.
func stopped(t *testing.T) (*etcdtest.Embedded, string) {
	t.Helper()
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	fragment(t, e)
	e.Stop(t)
	return e, e.DataDir
}

// fragment puts values, deletes two thirds and compacts.
func fragment(t *testing.T, e *etcdtest.Embedded) {
	t.Helper()
	cl, ctx := e.Client(t), t.Context()
	value := strings.Repeat("x", 64<<10)
	var rev int64
	for i := range 48 {
		key := string(rune('a' + i%3))
		resp, err := cl.Put(ctx, key, value)
		if err != nil {
			t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	if _, err := cl.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

func rule(t *testing.T, text string) Rule {
	t.Helper()
	r, err := ParseRule(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOffline(t *testing.T) {
	_, dir := stopped(t)
	db := etcdfile.DBPath(dir)
	if err := os.Chmod(db, 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// As the keeper runs as root, and etcd as somebody else.
		for p := db; p != filepath.Dir(filepath.Dir(dir)); p = filepath.Dir(p) {
			if err := os.Chown(p, 12345, 54321); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := read(t, db)
	run := func(text string, o OfflineOptions) Report {
		t.Helper()
		rep, err := Offline(t.Context(), dir, rule(t, text), o)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := run(DefaultRule, OfflineOptions{}); rep.Outcome != Nothing || rep.Members[0].Action != Skip || !strings.Contains(rep.Reason, "does not match") {
		t.Errorf("the rule does not match: got %+v", rep)
	}
	if rep := run("dbQuotaUsage > 0", OfflineOptions{}); rep.Outcome != Nothing {
		t.Errorf("the quota is not known: got %+v", rep)
	}
	if rep := run("dbQuotaUsage > 0", OfflineOptions{Quota: 1 << 30, DryRun: true}); rep.Outcome != Planned || rep.Members[0].AfterBytes != nil {
		t.Errorf("a dry run: got %+v", rep)
	}
	if !bytes.Equal(before, read(t, db)) {
		t.Fatal("the file was changed by what should only look at it")
	}
	rep := run("fragmentation > 0.4", OfflineOptions{})
	m := rep.Members[0]
	if rep.Outcome != Done || m.AfterBytes == nil || *m.AfterBytes >= *m.BeforeBytes/2 || rep.ReclaimedBytes != *m.BeforeBytes-*m.AfterBytes {
		t.Errorf("got %+v", rep)
	}
	info, err := os.Stat(db)
	if err != nil || info.Mode().Perm() != 0o640 || info.Size() != *m.AfterBytes {
		t.Errorf("got %v, %v; want mode 0640 kept", info, err)
	}
	if uid, gid := ownerOf(info); os.Geteuid() == 0 && (uid != 12345 || gid != 54321) {
		t.Errorf("got owner %d:%d, want 12345:54321 kept", uid, gid)
	}
	wantKeys(t, db)
	onlyDB(t, db)
}

func TestOffline_Refuses(t *testing.T) {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	rep, err := Offline(t.Context(), e.DataDir, rule(t, "true"), OfflineOptions{IfNeeded: true})
	if err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, "stop the member first") {
		t.Errorf("a running member: got %+v, %v", rep, err)
	}
	e.Stop(t)
	db := etcdfile.DBPath(e.DataDir)
	whole := read(t, db)

	empty := t.TempDir()
	if rep, err := Offline(t.Context(), empty, rule(t, "true"), OfflineOptions{IfNeeded: true}); err != nil || rep.Outcome != Nothing {
		t.Errorf("no database yet, if needed: got %+v, %v", rep, err)
	}
	if rep, err := Offline(t.Context(), filepath.Join(empty, "absent"), rule(t, "true"), OfflineOptions{IfNeeded: true}); err != nil || rep.Outcome != Nothing {
		t.Errorf("no directory yet, if needed: got %+v, %v", rep, err)
	}
	if rep, err := Offline(t.Context(), empty, rule(t, "true"), OfflineOptions{}); err == nil || rep.Outcome != Failed || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("no database: got %+v, %v", rep, err)
	}

	snapshot := append(bytes.Clone(whole), bytes.Repeat([]byte{7}, 32)...)
	torn := bytes.Clone(whole)
	for i := 2 * os.Getpagesize(); i < len(torn); i++ { // all but the two meta pages
		torn[i] ^= 0xa5
	}
	for name, content := range map[string][]byte{
		"empty": {}, "cut to a page": whole[:4096], "cut to half": whole[:len(whole)/2], "cut within a page": whole[:len(whole)-100],
		"foreign": []byte(strings.Repeat("not a database\n", 1000)), "zeros": make([]byte, 64<<10), "a snapshot": snapshot, "torn": torn,
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(db, content, 0o600); err != nil {
				t.Fatal(err)
			}
			rep, err := Offline(t.Context(), e.DataDir, rule(t, "true"), OfflineOptions{})
			if err == nil || rep.Outcome != Failed || !strings.Contains(err.Error(), db) {
				t.Errorf("got %+v, %v; want an error that names the file", rep, err)
			}
			if !bytes.Equal(content, read(t, db)) {
				t.Error("the file was changed")
			}
			onlyDB(t, db)
		})
	}
}

func TestOffline_NoRoom(t *testing.T) {
	_, dir := stopped(t)
	full := func(string) (int64, error) { return 1000, nil }
	rep := Report{}
	if err := offline(t.Context(), dir, rule(t, "true"), OfflineOptions{}, full, &rep); err != nil || rep.Outcome != Refused || !strings.Contains(rep.Reason, "are needed for the new file") {
		t.Errorf("got %+v, %v", rep, err)
	}
	// An init container must not keep an etcd from starting that could start.
	rep = Report{}
	if err := offline(t.Context(), dir, rule(t, "true"), OfflineOptions{IfNeeded: true}, full, &rep); err != nil || rep.Outcome != Nothing || !strings.Contains(rep.Reason, "left as it is") {
		t.Errorf("if needed: got %+v, %v", rep, err)
	}
	rep = Report{}
	broken := func(string) (int64, error) { return 0, errors.New("no such volume") }
	if err := offline(t.Context(), dir, rule(t, "true"), OfflineOptions{}, broken, &rep); err == nil {
		t.Errorf("a volume that cannot be read: got %+v", rep)
	}
}

// Killed at any point, the database is there and whole.
func TestOffline_Killed(t *testing.T) {
	_, dir := stopped(t)
	db := etcdfile.DBPath(dir)
	for i := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), offlineChild+"="+dir)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		// It is in the middle of one when its temporary file is there.
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond / 2) {
			if tmp, _ := filepath.Glob(filepath.Join(filepath.Dir(db), "db.tmp*")); len(tmp) > 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("no defragmentation was seen")
			}
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		wantKeys(t, db)
		for _, tmp := range mustGlob(t, filepath.Join(filepath.Dir(db), "db.tmp*")) {
			if err := os.Remove(tmp); err != nil { // as etcd does when it starts
				t.Fatal(err)
			}
		}
	}
	onlyDB(t, db)
}

func mustGlob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// onlyDB checks that no temporary file was left.
func onlyDB(t *testing.T, db string) {
	t.Helper()
	if left := mustGlob(t, db+".*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// wantKeys checks that the file is whole and still holds the three keys.
func wantKeys(t *testing.T, db string) {
	t.Helper()
	d, err := etcdfile.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Verify(t.Context()); !errors.Is(err, etcdfile.ErrNoChecksum) {
		t.Errorf("verify: %v", err)
	}
	info, err := d.Info()
	if err != nil || info.Revision != 49 {
		t.Errorf("got %+v, %v; want revision 49", info, err)
	}
}
