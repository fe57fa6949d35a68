package main

import (
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
)

// TestCensus_RealMembers reads the same keyspace from each kind of member, a learner among them.
func TestCensus_RealMembers(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{etcdtest.V36, etcdtest.V37, etcdtest.V36}})
	learner := etcd.AddMember(t, etcdtest.AddOptions{Learner: true, Version: etcdtest.V37})
	c := etcd.Client(t)
	const keys = 2000
	for i := 0; i < keys; i += 100 {
		var ops []clientv3.Op
		for j := range 100 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/registry/pods/ns-%d/pod-%05d", i%7, i+j), strings.Repeat("x", 500)))
		}
		if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	leader := etcd.Leader(t).Name
	endpoints := strings.Join(etcd.Endpoints(), ",")
	for from, want := range map[string]func(source string) bool{
		"follower": func(s string) bool { return s != leader && s != learner.Name },
		"leader":   func(s string) bool { return s == leader },
		"learner":  func(s string) bool { return s == learner.Name },
		"m0":       func(s string) bool { return s == "m0" },
		"m1":       func(s string) bool { return s == "m1" },
		"m2":       func(s string) bool { return s == "m2" },
	} {
		code, out, errs := run("census", "--endpoints", endpoints, "--from", from, "--rate", "0", "-w", "json")
		if code != 0 {
			t.Errorf("--from %s: exit code %d: %s", from, code, errs)
			continue
		}
		got := parseCensus(t, out)
		var pods int64
		for _, r := range got.Resources {
			if r.Resource == "pods" {
				pods = r.Keys
			}
		}
		source := strings.TrimPrefix(got.Source, "member ")
		if pods != keys || etcd.Leader(t).Name == leader && !want(source) {
			t.Errorf("--from %s: got %d pods from %s, the leader is %s", from, pods, source, leader)
		}
	}
}

// TestCensus_RealAuth: a user that may read Kubernetes' keys alone gets a census of them that says so; one that may read
// nothing is told what it needs.
func TestCensus_RealAuth(t *testing.T) {
	for _, version := range []string{etcdtest.V35, etcdtest.V37} {
		t.Run(version, func(t *testing.T) {
			etcd := etcdtest.Start(t, etcdtest.Options{Versions: []string{version}, Auth: true})
			c := etcd.Client(t)
			ctx := t.Context()
			must := func(_ any, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			for i := range 10 {
				must(c.Put(ctx, fmt.Sprintf("/registry/pods/ns/p%d", i), "x"))
			}
			must(c.Put(ctx, "/secret/of/another", "x"))
			must(c.RoleAdd(ctx, "reader"))
			must(c.RoleGrantPermission(ctx, "reader", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead)))
			must(c.RoleAdd(ctx, "all"))
			must(c.RoleGrantPermission(ctx, "all", "\x00", "\x00", clientv3.PermissionType(clientv3.PermRead)))
			for user, role := range map[string]string{"reader": "reader", "all": "all", "nobody": ""} {
				must(c.UserAdd(ctx, user, "password"))
				if role != "" {
					must(c.UserGrantRole(ctx, user, role))
				}
			}
			for _, u := range []struct {
				user, scope string
				code        int
				keys        int64
			}{{"all", "", 0, 11}, {"reader", "/registry/", 0, 10}, {"nobody", "", 1, 0}} {
				code, out, errs := run("census", "--endpoints", etcd.Endpoints()[0], "--user", u.user+":password", "-w", "json")
				if code != u.code {
					t.Errorf("%s: got exit code %d, want %d\n%s%s", u.user, code, u.code, out, errs)
					continue
				}
				if code != 0 {
					if !strings.Contains(errs, "permission denied") || !strings.Contains(errs, "the right to read") || out != "" {
						t.Errorf("%s: got %q and %q", u.user, out, errs)
					}
					continue
				}
				got := parseCensus(t, out)
				said := strings.Contains(out, "prefix-only")
				if got.Keys != u.keys || got.Scope != u.scope || said != (u.scope != "") {
					t.Errorf("%s: got %d keys, scope %q, said so: %v", u.user, got.Keys, got.Scope, said)
				}
			}
		})
	}
}
