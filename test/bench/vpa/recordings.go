package main

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/etcdkeeper/etcdkeeper/vpa"
)

// recordedStep is the time between two rows of a recording.
const recordedStep = time.Second

// runRecordings replays the recordings of real etcd servers: every row is a
// second. The first tenth is the warm-up. What counts against the limit is
// anonymous memory and the mapped file, as far as it fits: the kernel takes file
// pages back before it kills.
func runRecordings(w io.Writer, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "etcd-*.csv.gz"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, fmt.Errorf("no etcd-*.csv.gz in %s", dir))
	}
	fmt.Fprintln(w, "\n| recording | recommender | OOM kills | limit changes | over GiB·h | highest limit GiB |\n|---|---|---:|---:|---:|---:|")
	for _, file := range files {
		samples, err := readRecording(file)
		if err != nil {
			return err
		}
		wide, err := marginWithoutOOM(samples)
		if err != nil {
			return err
		}
		for _, s := range []subject{
			{"etcdkeeper", ours(recordingConfig())},
			{"VPA 1.8.1", peer(vpaOptions{24 * time.Hour, 0.9, 0.15})},
			{fmt.Sprintf("VPA 1.8.1, margin %.0f %%, the least without an OOM kill", wide*100), peer(vpaOptions{24 * time.Hour, 0.9, wide})},
			{"krr", func(string) (vpa.Limiter, error) { return &krr{}, nil }},
			{"static maximum, known before", func(string) (vpa.Limiter, error) { return static(highestAnon(samples)), nil }},
		} {
			l, err := s.make("")
			if err != nil {
				return err
			}
			ooms, changes, over, top := replayRecording(samples, l)
			fmt.Fprintf(w, "| %s | %s | %d | %d | %.3f | %.2f |\n", filepath.Base(file), s.name, ooms, changes, over, top/(1<<30))
		}
	}
	return nil
}

// marginWithoutOOM is the least safety margin of the Vertical Pod Autoscaler, in
// steps of 5 percent, with which a recording has no OOM kill.
func marginWithoutOOM(samples []vpa.Sample) (float64, error) {
	for margin := 0.15; margin < 20; margin += 0.05 {
		if ooms, _, _, _ := replayRecording(samples, newAutoscaler(vpaOptions{24 * time.Hour, 0.9, margin})); ooms == 0 {
			return margin, nil
		}
	}
	return 0, errors.New("no margin keeps the recording without an OOM kill")
}

func highestAnon(samples []vpa.Sample) float64 {
	v := 0.0
	for _, s := range samples {
		v = max(v, s.Anon)
	}
	return v
}

func recordingConfig() vpa.Config {
	cfg := vpa.DefaultConfig()
	cfg.Horizon = 24 * time.Hour
	return cfg
}

func replayRecording(samples []vpa.Sample, l vpa.Limiter) (ooms, changes int, over, top float64) {
	limit := math.NaN()
	warm := len(samples) / 10
	for i, s := range samples {
		if i < warm {
			l.Observe(s)
			continue
		}
		if math.IsNaN(limit) {
			limit = l.Limit(s.Time)
		}
		top = max(top, limit)
		need := s.Anon
		// Unused is what neither anonymous memory nor the database takes.
		over += max(0, limit-s.Anon-s.File) / (1 << 30) * recordedStep.Hours()
		s.Limit = limit
		if need > limit {
			ooms++
			s.OOM, s.Anon, s.Memory = true, limit, limit
			s.File = 0
		} else {
			s.File = min(s.File, limit-s.Anon)
			s.Memory = s.Anon + s.File
		}
		l.Observe(s)
		if next := l.Limit(s.Time); next != limit {
			changes++
			limit = next
		}
	}
	return ooms, changes, over, top
}

// readRecording makes samples of a recording of `make bench-vpa-model`.
func readRecording(file string) ([]vpa.Sample, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	r := csv.NewReader(gz)
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	c := vpa.NewCollector()
	var out []vpa.Sample
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		v := map[string]float64{}
		for i, name := range header {
			n, err := strconv.ParseFloat(row[i], 64)
			if err != nil {
				n = math.NaN()
			}
			v[name] = n
		}
		if math.IsNaN(v["anon"]) {
			continue
		}
		out = append(out, c.Sample(vpa.RecordedReading(v)))
	}
}
