package cluster_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits for what takes no time on an idle machine.
const patience = 30 * time.Second

// newClient is a keeper of its own.
func newClient(t *testing.T, endpoints ...string) *cluster.Client {
	t.Helper()
	cfg := cluster.DefaultConfig()
	cfg.Endpoints = endpoints
	cfg.CommandTimeout = patience
	return clientOf(t, cfg)
}

func clientOf(t *testing.T, cfg cluster.Config) *cluster.Client {
	t.Helper()
	c, err := cluster.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// noSpace raises or disarms the alarm.
func noSpace(t *testing.T, cl *clientv3.Client, raise bool) {
	t.Helper()
	action := pb.AlarmRequest_DEACTIVATE
	if raise {
		action = pb.AlarmRequest_ACTIVATE
	}
	ctx := t.Context()
	st, err := cl.Status(ctx, cl.Endpoints()[0])
	if err == nil {
		_, err = pb.NewMaintenanceClient(cl.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{Action: action, Alarm: pb.AlarmType_NOSPACE, MemberID: st.Header.MemberId})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// keys are those under the keeper's root.
func keys(t *testing.T, cl *clientv3.Client) []string {
	t.Helper()
	resp, err := cl.Get(t.Context(), cluster.Root, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, kv := range resp.Kvs {
		out = append(out, string(kv.Key))
	}
	return out
}

func embedded(t *testing.T) (*etcdtest.Embedded, *clientv3.Client) {
	t.Helper()
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	return e, e.Client(t)
}

func quiet(context.Context) error { return nil }
