package census_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/census"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
	"github.com/etcdkeeper/etcdkeeper/keyspace"
)

// TestTake_RealServers fills each version of etcd with 200,000 objects in Kubernetes' encoding and compares the census,
// live and from a snapshot, with a walk of its own over fixed prefixes.
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
			want := map[string]sums{}
			total := sums{}
			key := "\x00"
			for {
				resp, err := c.Get(ctx, key, clientv3.WithFromKey(), clientv3.WithLimit(20_000), clientv3.WithSerializable())
				if err != nil {
					t.Fatal(err)
				}
				for _, kv := range resp.Kvs {
					name := "other"
					if rest, ok := strings.CutPrefix(string(kv.Key), "/registry/"); ok {
						parts := strings.Split(rest, "/")
						name = parts[0]
						switch {
						case len(parts) == 1: // such as the API server's health key
							name = "other"
						case strings.Contains(name, ".") || name == "services":
							name += "/" + parts[1]
						}
					} else if string(kv.Key) == "compact_rev_key" {
						name = "compact_rev_key"
					}
					n := int64(len(kv.Key) + len(kv.Value))
					want[name] = sums{want[name].Keys + 1, want[name].Bytes + n}
					total = sums{total.Keys + 1, total.Bytes + n}
				}
				if !resp.More {
					break
				}
				key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
			}
			check := func(name string, s keyspace.Scanner) {
				t.Helper()
				got, err := census.Take(ctx, s, census.Options{Source: name})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got.Keys != total.Keys || got.Bytes != total.Bytes {
					t.Errorf("%s: got %d keys and %d bytes, want %+v", name, got.Keys, got.Bytes, total)
				}
				have := map[string]sums{}
				layout := keyspace.NewLayout("")
				for _, r := range got.Resources {
					path := r.Resource
					if r.Resource != "other" && r.Resource != "compact_rev_key" {
						path = strings.TrimSuffix(strings.TrimPrefix(layout.Dir(r.Group, r.Resource, ""), "/registry/"), "/")
					}
					have[path] = sums{r.Keys, r.Bytes}
				}
				if diff := cmp.Diff(want, have); diff != "" {
					t.Errorf("%s: resources (-want +got):\n%s", name, diff)
				}
				if f := got.File; f != nil && f.LiveBytes+f.HistoryBytes+f.TombstoneBytes+f.OverheadBytes+f.FreeBytes != f.SizeBytes {
					t.Errorf("%s: the file does not add up: %+v", name, f)
				}
			}
			live, err := keyspace.NewLive(ctx, c, keyspace.LiveOptions{})
			if err != nil {
				t.Fatal(err)
			}
			check("live", live)
			if streams := version == etcdtest.V37; live.Stats().Streamed != streams {
				t.Errorf("streams: got %v, want %v", live.Stats().Streamed, streams)
			}
			if st := live.Stats(); st.Indexed > 8*total.Keys {
				t.Errorf("the server counted %d keys for %d: %+v", st.Indexed, total.Keys, st)
			}
			path := save(t, c)
			file, err := keyspace.OpenFile(path)
			if err != nil {
				t.Fatal(err)
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
			check("stopped member", stopped)
		})
	}
}
