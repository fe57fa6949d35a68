package daemon

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// TestAnnounce: a keeper says that it is there and what it does, whatever is switched on, and takes it back at its end.
func TestAnnounce(t *testing.T) {
	etcd := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	cfg := censusConfig(etcd.Endpoint)
	cfg.Defrag.Enabled = false
	client, err := cluster.New(cfg.Etcd, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	announced := func(census, defrag bool) func() bool {
		return func() bool {
			keepers, err := client.Keepers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return len(keepers) == 1 && keepers[0].Member != 0 && keepers[0].Version == "test" &&
				slices.Contains(keepers[0].Tasks, cluster.TaskCensus) == census && slices.Contains(keepers[0].Tasks, cluster.TaskDefrag) == defrag && (keepers[0].Drain != nil) == defrag
		}
	}
	var reloaded atomic.Bool
	d, err := New(Options{Config: cfg, Version: "test", Load: func() (config.Config, error) {
		c := cfg
		c.Census.Enabled, c.Defrag.Enabled = !reloaded.Load(), reloaded.Load()
		return c, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, d)
	until(t, "the announcement", announced(true, false))
	reloaded.Store(true)
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	until(t, "an announcement without the census, and of who takes turns", announced(false, true))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if keepers, err := client.Keepers(t.Context()); err != nil || len(keepers) != 0 {
		t.Errorf("at the end: got %+v, %v", keepers, err)
	}
}
