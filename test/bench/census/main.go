// Command census measures what a census costs, beside the floor under it and the peers that do the same work: time,
// memory of the reader and of the server, and the latency of writes meanwhile. It starts real servers, fills them, and
// prints a table in Markdown.
//
//	go run ./test/bench/census -versions 3.7,3.6 -keys 1000000
//	go run ./test/bench/census -file -keys 1000000
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdkeeper/etcdkeeper/internal/etcdtest"
	"github.com/etcdkeeper/etcdkeeper/internal/seed"
)

type options struct {
	keeper   string
	versions string
	keys     string
	file     bool
	ways     string
	rated    bool
	floor    float64
}

func main() {
	var o options
	reader, endpoint := "", ""
	flag.StringVar(&o.keeper, "keeper", "bin/etcdkeeper", "the built binary")
	flag.StringVar(&o.versions, "versions", "3.7,3.6", "etcd versions")
	flag.StringVar(&o.keys, "keys", "100000,300000,1000000", "sizes of the keyspace; peers are measured at the last")
	flag.StringVar(&o.ways, "ways", "census,stream,pages8000,pages1000,etcdctl", "what is measured at the last size")
	flag.BoolVar(&o.file, "file", false, "measure a file instead of a running etcd")
	flag.BoolVar(&o.rated, "rated", true, "measure writes beside a census at the default rate")
	flag.Float64Var(&o.floor, "floor", 0, "seconds of the stream at the last size, where another run measured it")
	flag.StringVar(&reader, "reader", "", "be a reader: for this program's own use")
	flag.StringVar(&endpoint, "endpoint", "", "what the reader reads")
	flag.Parse()
	if reader != "" {
		if err := read(reader, endpoint); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	tb := newTB()
	defer tb.end()
	if o.file {
		benchFile(tb, o)
		return
	}
	benchLive(tb, o)
}

func sizes(tb *tb, list string) (out []int) {
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			tb.Fatalf("-keys: %v", err)
		}
		out = append(out, n)
	}
	return out
}

func benchLive(tb *tb, o options) {
	fmt.Println("| etcd | keys | read by | seconds | × stream | reader's memory | server's growth | worst put |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	counts := sizes(tb, o.keys)
	floor := o.floor
	for _, version := range strings.Split(o.versions, ",") {
		for i, n := range counts {
			c := etcdtest.Start(tb, etcdtest.Options{Versions: []string{version}, QuotaBytes: 16 << 30})
			client := c.Client(tb)
			fill(tb, client, n)
			settle(tb)
			// A server that nobody has read from since it was filled lets its heap grow at the first read, whoever reads.
			first := measure(tb, c, version, firstRead(version), o.keeper)
			fmt.Printf("| %s | %d | first read: %s | %.2f | | %s | %s | %s |\n", version, first.keys, firstRead(version), first.seconds, mib(first.reader), mib(first.server), first.worst.Round(time.Millisecond))
			ways := []string{"stream", "census"}
			if i == len(counts)-1 {
				ways = strings.Split(o.ways, ",")
			}
			for _, way := range ways {
				if way == "stream" && version != "3.7" {
					continue
				}
				m := measure(tb, c, version, way, o.keeper)
				// The first read after the fill finds the server at its work still, and the two that are compared most closely
				// deserve a second look.
				for range repeats(way) {
					again := measure(tb, c, version, way, o.keeper)
					again.reader, again.server = max(again.reader, m.reader), max(again.server, m.server)
					again.seconds, again.worst = min(again.seconds, m.seconds), max(again.worst, m.worst)
					m = again
				}
				if way == "stream" && i == len(counts)-1 {
					floor = m.seconds
				}
				ratio := "–"
				if floor > 0 && i == len(counts)-1 {
					ratio = fmt.Sprintf("%.2f", m.seconds/floor)
				}
				fmt.Printf("| %s | %d | %s | %.2f | %s | %s | %s | %s |\n", version, m.keys, way, m.seconds, ratio, mib(m.reader), mib(m.server), m.worst.Round(time.Millisecond))
			}
			if i == len(counts)-1 && o.rated {
				rated(tb, c, o.keeper)
			}
			c.Members[0].Stop(tb)
			_ = os.RemoveAll(c.Members[0].DataDir)
		}
	}
}

// firstRead is the way to read a server that was read by nobody yet: the bare one where that is linear.
func firstRead(version string) string {
	if version == "3.7" {
		return "stream"
	}
	return "census"
}

// repeats is how often a way is measured again: time is the best, memory and latency the worst of all.
func repeats(way string) int {
	if way == "stream" || way == "census" {
		return 2
	}
	return 0
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

func fill(tb *tb, client *clientv3.Client, n int) {
	st, err := seed.Write(tb.Context(), client, seed.Generate(seed.Large(time.Now(), n)), seed.WriteOptions{LeaseTTL: 12 * time.Hour, Concurrency: 16})
	if err != nil {
		tb.Fatalf("fill: %v", err)
	}
	fmt.Fprintf(os.Stderr, "filled with %d keys, %d bytes\n", st.Total.Keys, st.Total.Bytes)
	if _, err := client.Put(tb.Context(), "/probe", "x"); err != nil {
		tb.Fatalf("fill: %v", err)
	}
}

// settle waits until the server has written what it was filled with.
func settle(tb *tb) {
	select {
	case <-time.After(5 * time.Second):
	case <-tb.Context().Done():
	}
}

// result is what one way of reading cost.
type result struct {
	seconds        float64
	keys           int64
	reader, server int64 // bytes of anonymous memory: the peak, and the growth at the peak
	worst, p99     time.Duration
}

func command(tb *tb, version, way, keeper, endpoint string) *exec.Cmd {
	switch way {
	case "census":
		return exec.Command(keeper, "census", "--endpoints", endpoint, "--rate", "0", "-w", "json")
	case "census at the default rate":
		return exec.Command(keeper, "census", "--endpoints", endpoint, "-w", "json")
	case "etcdctl":
		return exec.Command(etcdtest.Binary(tb, version, "etcdctl"), "--endpoints", endpoint, "--command-timeout", "600s", "get", "--prefix", "", "--from-key", "--write-out", "simple")
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return exec.Command(self, "-reader", way, "-endpoint", endpoint)
}

func measure(tb *tb, c *etcdtest.Cluster, version, way, keeper string) result {
	member := c.Members[0]
	endpoint := c.Endpoints()[0]
	server := anonymous(member.PID())
	probe := startProbe(tb, c.Client(tb))
	cmd := command(tb, version, way, keeper, endpoint)
	if way == "etcdctl" {
		cmd.Args = append(cmd.Args[:0:0], cmd.Args[0], "--endpoints", endpoint, "--command-timeout", "600s", "get", "--prefix", "/registry/")
	}
	out := filepath.Join(tb.TempDir(), "out")
	f, err := os.Create(out)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	cmd.Stdout, cmd.Stderr = f, os.Stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		tb.Fatalf("%s: %v", way, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	m := result{}
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				tb.Fatalf("%s: %v", way, err)
			}
			running = false
		case <-time.After(10 * time.Millisecond):
			m.reader = max(m.reader, anonymous(cmd.Process.Pid))
			m.server = max(m.server, anonymous(member.PID())-server)
		}
	}
	m.seconds = time.Since(start).Seconds()
	_ = f.Close()
	m.worst, m.p99 = probe.stop()
	if way != "etcdctl" {
		var answer struct {
			Keys int64 `json:"keys"`
		}
		data, _ := os.ReadFile(out)
		if err := json.Unmarshal(data, &answer); err != nil {
			tb.Fatalf("%s: %v", way, err)
		}
		m.keys = answer.Keys
	}
	_ = os.Remove(out)
	return m
}

// rated compares writes at rest with writes beside a census at the default rate.
func rated(tb *tb, c *etcdtest.Cluster, keeper string) {
	quiet := startProbe(tb, c.Client(tb))
	time.Sleep(15 * time.Second)
	_, before := quiet.stop()
	m := measure(tb, c, "", "census at the default rate", keeper)
	fmt.Printf("\nputs at rest: p99 %s; beside a census at the default rate (%.1f s): p99 %s, %.2f times, worst %s\n\n", before.Round(10*time.Microsecond),
		m.seconds, m.p99.Round(10*time.Microsecond), float64(m.p99)/float64(before), m.worst.Round(time.Millisecond))
}

// anonymous is the anonymous memory of a process in bytes, 0 where it has ended.
func anonymous(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// read is the peers' way to read a keyspace: the bare loop over a stream, and unary pages with one fixed end.
func read(way, endpoint string) error {
	if path, ok := strings.CutPrefix(way, "bolt:"); ok {
		return walk(path)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	keys, bytes := int64(0), int64(0)
	if way == "stream" {
		stream, err := client.GetStream(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithSerializable())
		if err != nil {
			return err
		}
		for r := range stream {
			if err := r.Err(); err != nil {
				return err
			}
			for _, kv := range r.Kvs {
				keys++
				bytes += int64(len(kv.Key) + len(kv.Value))
			}
		}
	} else {
		limit, err := strconv.ParseInt(strings.TrimPrefix(way, "pages"), 10, 64)
		if err != nil {
			return err
		}
		key, rev := "\x00", int64(0)
		for {
			resp, err := client.Get(ctx, key, clientv3.WithFromKey(), clientv3.WithLimit(limit), clientv3.WithRev(rev), clientv3.WithSerializable())
			if err != nil {
				return err
			}
			rev = resp.Header.Revision
			for _, kv := range resp.Kvs {
				keys++
				bytes += int64(len(kv.Key) + len(kv.Value))
			}
			if !resp.More {
				break
			}
			key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
	}
	fmt.Printf(`{"keys":%d,"bytes":%d}`, keys, bytes)
	return nil
}
