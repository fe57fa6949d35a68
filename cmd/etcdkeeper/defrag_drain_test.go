package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/defrag"
	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// The plan says once, in the dry run and in the status, that clients are not turned away.
func TestDrain_NotedOnce(t *testing.T) {
	e := etcdtest.Embed(t, etcdtest.EmbedOptions{})
	t.Setenv("ETCDKEEPER_DEFRAG_DRAINABOVE", "0s")
	t.Setenv("ETCDKEEPER_DEFRAG_ALLOWSMALL", "true")
	for _, args := range [][]string{{"defrag", "--dry-run"}, {"status"}} {
		_, stdout, stderr := runCmd(t, append(args, "--endpoints", e.Endpoint, "--rule", "true")...)
		if n := strings.Count(stdout, "are not drained: no keeper that takes turns is beside it"); n != 1 {
			t.Errorf("%v: noted %d times, want once:\n%s%s", args, n, stdout, stderr)
		}
	}
}

// The table says what becomes, and became, of a member's clients.
func TestDefragTable_Clients(t *testing.T) {
	seconds, moved, back := 4.8, 7, 5
	for want, m := range map[string]defrag.MemberReport{
		"; clients are turned away meanwhile: 2 connections of 1 client addresses can go to other members": {
			Drain: true, DrainReason: "2 connections of 1 client addresses can go to other members"},
		"; clients were turned away for 4.8s (connections: 7, 5 afterwards)": {
			Drain: true, Done: true, DrainedSeconds: &seconds, ConnectionsMoved: &moved, ConnectionsBack: &back},
		"; clients were turned away for 4.8s (connections: 7, – afterwards)": {
			Drain: true, Done: true, DrainedSeconds: &seconds, ConnectionsMoved: &moved},
	} {
		m.Name, m.Action, m.Reason = "m1", defrag.Defragment, "the rule matches"
		var out bytes.Buffer
		if err := defragTable(&out, defrag.Report{Members: []defrag.MemberReport{m}}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), m.Reason+want) {
			t.Errorf("got %s, want %q", out.String(), want)
		}
	}
	var out bytes.Buffer
	plain := defrag.MemberReport{Name: "m1", Reason: "the rule matches", DrainReason: "defrag.drain is never"}
	if err := defragTable(&out, defrag.Report{Members: []defrag.MemberReport{plain}}); err != nil || strings.Contains(out.String(), "drain") {
		t.Errorf("not drained: got %v, %s", err, out.String())
	}
}
