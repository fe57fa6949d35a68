package census_test

import (
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// TestTake_RealServers fills each version of etcd with 200,000 objects in Kubernetes' encoding, writes some of them again
// and deletes some, and compares the census, live and from files, with walks of its own.
func TestTake_RealServers(t *testing.T) {
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			cluster := etcdtest.Start(t, etcdtest.Options{Versions: []string{version}, QuotaBytes: 8 << 30, ExtraArgs: []string{"--unsafe-no-fsync"}})
			c := cluster.Client(t)
			ctx := t.Context()
			st, err := seed.Write(ctx, c, seed.Generate(seed.Large(time.Now(), 205_000)), seed.WriteOptions{LeaseTTL: 6 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			if st.Total.Keys < 200_000 {
				t.Fatalf("the seeder wrote %d keys, want at least 200,000", st.Total.Keys)
			}
			rewrite(t, c)
			want := newTruth()
			key := "\x00"
			for {
				resp, err := c.Get(ctx, key, clientv3.WithFromKey(), clientv3.WithLimit(20_000), clientv3.WithSerializable())
				if err != nil {
					t.Fatal(err)
				}
				for _, kv := range resp.Kvs {
					want.add(t, kv)
				}
				if !resp.More {
					break
				}
				key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
			}
			check := func(name string, s keyspace.Scanner) {
				t.Helper()
				got, err := census.Take(ctx, s, census.Options{Source: name, Top: 1000})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				want.check(t, name, got)
			}
			live, err := keyspace.NewLive(ctx, c, keyspace.LiveOptions{})
			if err != nil {
				t.Fatal(err)
			}
			check("live", live)
			if streams := version == etcdtest.V37; live.Stats().Streamed != streams {
				t.Errorf("streams: got %v, want %v", live.Stats().Streamed, streams)
			}
			if st := live.Stats(); st.Indexed > 8*want.total.Keys {
				t.Errorf("the server counted %d keys for %d: %+v", st.Indexed, want.total.Keys, st)
			}
			path := save(t, c)
			file, err := keyspace.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want.history(t, path)
			if len(want.past) < 4 || want.tombstones == 0 {
				t.Fatalf("too little history to compare: %+v", want.past)
			}
			check("snapshot", file)
			if _, err := file.Verify(ctx); err != nil {
				t.Errorf("verify: %v", err)
			}
			if err := file.Close(); err != nil {
				t.Error(err)
			}
			if _, err := keyspace.OpenFile(cluster.Members[0].Database()); err == nil {
				t.Error("the database of a running member was opened")
			}
			cluster.Members[0].Stop(t)
			stopped, err := keyspace.OpenFile(cluster.Members[0].DataDir)
			if err != nil {
				t.Fatal(err)
			}
			defer stopped.Close()
			if n := stopped.Info(); n.Revision < 1 {
				t.Errorf("stopped member: %+v", n)
			}
			want.history(t, stopped.Path())
			check("stopped member", stopped)
		})
	}
}

// rewrite writes some keys of three resources once or several times again, deletes others, and makes one of those anew;
// it also writes keys of another program, and encrypts some Secrets.
func rewrite(t *testing.T, c *clientv3.Client) {
	t.Helper()
	for i, prefix := range []string{"/registry/jobs/", "/registry/services/specs/", "/registry/secrets/", "/registry/wgpolicyk8s.io/policyreports/"} {
		resp, err := c.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithLimit(int64(40+10*i)))
		if err != nil || len(resp.Kvs) < 40 {
			t.Fatalf("%s: %d keys (%v)", prefix, len(resp.Kvs), err)
		}
		for j, kv := range resp.Kvs {
			put := func(value string) {
				t.Helper()
				if _, err := c.Put(t.Context(), string(kv.Key), value); err != nil {
					t.Fatal(err)
				}
			}
			switch {
			case j%4 == 0:
				if _, err := c.Delete(t.Context(), string(kv.Key)); err != nil {
					t.Fatal(err)
				}
				if j%8 == 0 {
					put(string(kv.Value[:len(kv.Value)/2]))
				}
			case i == 2:
				put("k8s:enc:secretbox:v1:key1:" + strings.Repeat("x", 1000+j))
			default:
				for range j % 4 {
					put(string(kv.Value) + strings.Repeat(" ", j))
				}
			}
		}
	}
	for _, key := range []string{"/calico/ipam/a", "/calico/ipam/b", "/calico/felix", "elsewhere/a/b/c"} {
		if _, err := c.Put(t.Context(), key, "x"); err != nil {
			t.Fatal(err)
		}
	}
}
