package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func wellFormed(t *testing.T, picture string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v\n%s", err, picture)
		}
	}
}

func TestTerminal(t *testing.T) {
	in := "$ etcdkeeper status --endpoints http://127.0.0.1:1,http://127.0.0.1:2\nA < B & C\n\n" + strings.Repeat("x", 200) + "\n/var/tmp/etcdkeeper-demo-123/plan.jsonl\n"
	var out bytes.Buffer
	if err := run([]string{"terminal"}, strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, out.String())
	for _, want := range []string{`class="c" x="12" y="24">$ etcdkeeper status<`, "A &lt; B &amp; C", "xxx…<", ">plan.jsonl<"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the picture does not have %s:\n%s", want, out.String())
		}
	}
}

func TestDraw(t *testing.T) {
	now := time.Now()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.FormValue("query"); q {
		case `size{job="keeper"}`:
			fmt.Fprintf(w, `{"data":{"result":[{"metric":{"member":"<m0>"},"values":[[%d,"1048576"],[%d,"2097152"]]}]}}`, now.Add(-time.Minute).Unix(), now.Unix())
		case "bad":
			fmt.Fprint(w, `{"status":"error","error":"no such thing"}`)
		default:
			t.Errorf("asked %s", q)
		}
	}))
	defer server.Close()
	dashboard := func(query string) []byte {
		return fmt.Appendf(nil, `{"panels":[
			{"type":"row","title":"Other","gridPos":{"y":0,"w":24,"h":1}},{"type":"stat","title":"Left out","targets":[{"expr":"other"}]},
			{"type":"row","title":"Now","gridPos":{"y":9,"w":24,"h":1}},
			{"type":"stat","title":"Size","gridPos":{"y":10,"w":6,"h":4},"fieldConfig":{"defaults":{"unit":"bytes"}},"targets":[{"expr":%q}]},
			{"type":"timeseries","title":"Sizes","gridPos":{"y":14,"w":12,"h":8},"fieldConfig":{"defaults":{"unit":"bytes"}},"targets":[{"expr":%q,"legendFormat":"{{member}} file"}]}]}`, query, query)
	}
	s := source{base: server.URL, start: now.Add(-time.Minute), end: now}
	picture, err := draw(dashboard(`size{job="$job"}`), []string{"Now"}, s)
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, picture)
	for _, want := range []string{">2 MiB<", "&lt;m0&gt; file", ">Sizes<"} {
		if !strings.Contains(picture, want) {
			t.Errorf("the picture does not have %s:\n%s", want, picture)
		}
	}
	if strings.Contains(picture, "Left out") {
		t.Error("a row that was not asked for is drawn")
	}
	if _, err := draw(dashboard("bad"), []string{"Now"}, s); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("a query that fails: got %v", err)
	}
	if _, err := draw(dashboard("bad"), []string{"None"}, s); err == nil {
		t.Error("a row that is not there: got no error")
	}
}

func TestRun_Refuses(t *testing.T) {
	for _, args := range [][]string{nil, {"poster"}, {"dashboard"}, {"dashboard", "/does/not/exist.json"}} {
		if err := run(args, strings.NewReader(""), io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
