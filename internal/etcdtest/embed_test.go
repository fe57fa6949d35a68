package etcdtest

import (
	"net/http"
	"os"
	"testing"
)

func TestEmbed(t *testing.T) {
	e := Embed(t, EmbedOptions{QuotaBytes: 64 << 20})
	client := e.Client(t)
	if _, err := client.Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	got, err := client.Get(t.Context(), "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Fatalf("got %v, %v, want the value that was put", got, err)
	}
	status, err := client.Status(t.Context(), e.Endpoint)
	if err != nil || status.DbSizeQuota != 64<<20 {
		t.Fatalf("got status %v, %v, want the quota of 64 MiB", status, err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.Endpoint+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("got metrics status %s, want 200", response.Status)
	}
}

func TestEmbedded_Stop(t *testing.T) {
	e := Embed(t, EmbedOptions{})
	e.Stop(t)
	if info, err := os.Stat(e.Database()); err != nil || info.Size() == 0 {
		t.Errorf("got database %v, %v, want a file with content", info, err)
	}
	e.Stop(t)
}
