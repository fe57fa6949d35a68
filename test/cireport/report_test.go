package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const ran = `{"Action":"run","Package":"p","Test":"TestA"}` + "\n" +
		`{"Action":"output","Package":"p","Test":"TestA","Output":"a detail\n"}` + "\n"
	const passes = ran + `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1.5}` + "\n" +
		`{"Action":"output","Package":"p","Output":"ok  \tp\t1.6s\n"}` + "\n" +
		`{"Action":"pass","Package":"p","Elapsed":1.6}` + "\n"
	tests := []struct {
		name, input  string
		summary      string
		wants        []string
		wantErr      string
		mustNotPrint string
	}{
		{name: "passes", input: passes, summary: "1 passed, 0 failed, 0 skipped",
			wants: []string{"--- PASS: TestA (1.50s)\n", "ok  \tp\t1.6s\n"}, mustNotPrint: "a detail"},
		{name: "fails", input: ran + `{"Action":"fail","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n",
			summary: "0 passed, 1 failed, 0 skipped", wants: []string{"a detail\n"}, wantErr: "1 tests failed"},
		{name: "skips", input: passes + ran + `{"Action":"skip","Package":"p","Test":"TestA"}` + "\n",
			summary: "1 passed, 0 failed, 1 skipped", wants: []string{"a detail\n"}, wantErr: "1 tests were skipped"},
		{name: "panics", input: ran + `{"Action":"fail","Package":"p"}` + "\n",
			summary: "0 passed, 1 failed, 0 skipped", wants: []string{"--- FAIL: TestA (did not end)\na detail\n"}, wantErr: "1 tests failed"},
		{name: "does not build", input: passes + `{"Action":"build-output","ImportPath":"q","Output":"syntax error\n"}` + "\n" +
			`{"Action":"build-fail","ImportPath":"q"}` + "\n" + `{"Action":"fail","Package":"q"}` + "\n",
			summary: "1 passed, 0 failed, 0 skipped", wants: []string{"syntax error\n"}, wantErr: "1 packages did not build"},
		{name: "leaks after its tests", input: passes + `{"Action":"fail","Package":"p"}` + "\n",
			summary: "1 passed, 0 failed, 0 skipped", wantErr: "1 packages did not build or ended badly"},
		{name: "nothing", input: "go: some complaint\n", summary: "0 passed, 0 failed, 0 skipped",
			wants: []string{"go: some complaint\n"}, wantErr: "no test ran"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			err := run(strings.NewReader(tt.input), &out, "")
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("got error %v, want %q", err, tt.wantErr)
			}
			for _, want := range append(tt.wants, "\n"+tt.summary+"\n") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("got\n%s\nwant %q in it", out.String(), want)
				}
			}
			if tt.mustNotPrint != "" && strings.Contains(out.String(), tt.mustNotPrint) {
				t.Errorf("got\n%s\nwant no %q in it", out.String(), tt.mustNotPrint)
			}
		})
	}
}
