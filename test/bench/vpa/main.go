// Command vpa replays recorded memory use through this project's recommender,
// the Vertical Pod Autoscaler's own, krr's rule and a limit that was known
// before, and prints the tables of docs/benchmarks/vpa.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/vpa"
)

func main() {
	usage := flag.String("usage", os.Getenv("VPA_USAGE"), "CSV of recorded use (series,step,cpu_percent,memory_percent), may be gzip; default $VPA_USAGE")
	svg := flag.String("svg", "", "write the curve to this SVG file")
	recordings := flag.String("recordings", "", "directory of etcd recordings to replay too")
	flag.Parse()
	if err := run(os.Stdout, *usage, *svg, *recordings); err != nil {
		fmt.Fprintln(os.Stderr, "bench vpa:", err)
		os.Exit(1)
	}
}

// subject is a recommender under test.
type subject struct {
	name string
	make func(series string) (vpa.Limiter, error)
}

const week = 7 * 24 * time.Hour

func ours(cfg vpa.Config) func(string) (vpa.Limiter, error) {
	return func(name string) (vpa.Limiter, error) { return vpa.NewRecommender(cfg, name) }
}

func peer(o vpaOptions) func(string) (vpa.Limiter, error) {
	return func(string) (vpa.Limiter, error) { return newAutoscaler(o), nil }
}

func subjects(peaks map[string]float64) []subject {
	return []subject{
		{"etcdkeeper", ours(vpa.DefaultConfig())},
		{"VPA 1.8.1", peer(vpaOptions{24 * time.Hour, 0.9, 0.15})},
		{"VPA 1.8.1, half-life 7 d", peer(vpaOptions{week, 0.9, 0.15})},
		{"VPA 1.8.1, half-life 7 d, p99", peer(vpaOptions{week, 0.99, 0.15})},
		{"krr", func(string) (vpa.Limiter, error) { return &krr{}, nil }},
		{"static maximum, known before", func(s string) (vpa.Limiter, error) { return static(peaks[s]), nil }},
	}
}

func run(w io.Writer, usage, svg, recordings string) error {
	if usage == "" && recordings == "" {
		return errors.New("give the recorded use by -usage or VPA_USAGE, or -recordings")
	}
	if usage != "" {
		if err := runUsage(w, usage, svg); err != nil {
			return err
		}
	}
	if err := runShapes(w); err != nil {
		return err
	}
	if recordings != "" {
		return runRecordings(w, recordings)
	}
	return nil
}

func runUsage(w io.Writer, usage, svg string) error {
	f, err := os.Open(usage)
	if err != nil {
		return err
	}
	defer f.Close()
	all, err := vpa.ReadUsage(f, filepath.Base(usage))
	if err != nil {
		return err
	}
	o := vpa.DefaultReplayOptions()
	peaks := map[string]float64{}
	var halves [2][]vpa.UsageSeries
	for i, s := range all {
		halves[i%2] = append(halves[i%2], s)
		for _, r := range s.Rows {
			if v := r.MemoryPercent / 100 * o.MemoryBytes; v > peaks[s.Name] {
				peaks[s.Name] = v
			}
		}
	}
	fmt.Fprintf(w, "%d series; tuned half: %d, other half: %d\n\n", len(all), len(halves[0]), len(halves[1]))
	fmt.Fprintln(w, "| recommender | OOM kills | series with | limit changes | over GiB·h | limit/used | tuned half: OOMs, GiB·h | other half: OOMs, GiB·h |")
	fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|---:|---:|")
	var points []point
	var results []vpa.ReplayResult
	for _, s := range subjects(peaks) {
		r, err := vpa.ReplayWith(all, o, s.make)
		if err != nil {
			return err
		}
		var parts []string
		for _, h := range halves {
			hr, err := vpa.ReplayWith(h, o, s.make)
			if err != nil {
				return err
			}
			parts = append(parts, fmt.Sprintf("%d, %.0f", hr.OOMs, hr.OverProvisionedGiBH))
		}
		fmt.Fprintf(w, "| %s | %d | %d | %d | %.0f | %.3f | %s |\n", s.name, r.OOMs, r.SeriesWithOOMs, r.Changes, r.OverProvisionedGiBH, r.LimitOverUsed, strings.Join(parts, " | "))
		points = append(points, point{s.name, r.OverProvisionedGiBH, r.OOMs})
		results = append(results, r)
	}
	randomHalves(w, results[0], results[1])
	curves, err := drawCurves(w, all, o)
	if err != nil || svg == "" {
		return err
	}
	return os.WriteFile(svg, picture(curves, points), 0o644)
}

// randomHalves says how often ours is better than a peer on random halves of the
// series, so that nothing rests on the one split.
func randomHalves(w io.Writer, ours, peer vpa.ReplayResult) {
	const rounds = 10_000
	rng := rand.New(rand.NewPCG(1, 2))
	fewer, cheaper, both := 0, 0, 0
	for range rounds {
		var oomsA, oomsB int
		var gibA, gibB float64
		for _, i := range rng.Perm(len(ours.PerSeries))[:len(ours.PerSeries)/2] {
			oomsA, gibA = oomsA+ours.PerSeries[i].OOMs, gibA+ours.PerSeries[i].OverProvisionedGiBH
			oomsB, gibB = oomsB+peer.PerSeries[i].OOMs, gibB+peer.PerSeries[i].OverProvisionedGiBH
		}
		if oomsA < oomsB {
			fewer++
		}
		if gibA <= gibB {
			cheaper++
		}
		if oomsA < oomsB && gibA <= gibB {
			both++
		}
	}
	fmt.Fprintf(w, "\nOn %d random halves against VPA 1.8.1: fewer OOM kills on %.1f %%, no more GiB·h on %.1f %%, both on %.1f %%.\n",
		rounds, 100*float64(fewer)/rounds, 100*float64(cheaper)/rounds, 100*float64(both)/rounds)
}

// curve is a recommender over its margin.
type curve struct {
	name   string
	points []point
}

type point struct {
	label string
	gib   float64
	ooms  int
}

func drawCurves(w io.Writer, all []vpa.UsageSeries, o vpa.ReplayOptions) ([]curve, error) {
	fmt.Fprintln(w, "\n| recommender | margin | OOM kills | limit changes | over GiB·h |\n|---|---|---:|---:|---:|")
	var curves []curve
	trace := func(name string, margins []float64, label string, make func(v float64) func(string) (vpa.Limiter, error)) error {
		c := curve{name: name}
		for _, v := range margins {
			r, err := vpa.ReplayWith(all, o, make(v))
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "| %s | "+label+" | %d | %d | %.0f |\n", name, v, r.OOMs, r.Changes, r.OverProvisionedGiBH)
			c.points = append(c.points, point{fmt.Sprintf(label, v), r.OverProvisionedGiBH, r.OOMs})
		}
		curves = append(curves, c)
		return nil
	}
	err := errors.Join(
		trace("etcdkeeper", []float64{40, 80, 120, 140, 155, 170, 185, 200, 250, 300, 400, 600}, "an OOM kill costs %.0f GiB·h", func(v float64) func(string) (vpa.Limiter, error) {
			cfg := vpa.DefaultConfig()
			cfg.Policy.OOMCostGiBHours = v
			return ours(cfg)
		}),
		trace("VPA 1.8.1", []float64{0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4}, "safety margin %.2f", func(v float64) func(string) (vpa.Limiter, error) {
			return peer(vpaOptions{24 * time.Hour, 0.9, v})
		}),
		trace("VPA 1.8.1, half-life 7 d, p99", []float64{0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3}, "safety margin %.2f", func(v float64) func(string) (vpa.Limiter, error) {
			return peer(vpaOptions{week, 0.99, v})
		}),
	)
	return curves, err
}

// picture draws OOM kills against GiB·h.
func picture(curves []curve, points []point) []byte {
	const width, height, left, bottom, top, right = 860, 520, 60, 50, 40, 20
	lowX, highX, highY := math.Inf(1), 0.0, 0.0
	for _, c := range curves {
		for _, p := range c.points {
			lowX, highX, highY = min(lowX, p.gib), max(highX, p.gib), max(highY, float64(p.ooms))
		}
	}
	for _, p := range points {
		lowX, highX, highY = min(lowX, p.gib), max(highX, p.gib), max(highY, float64(p.ooms))
	}
	lowX, highX, highY = math.Floor(lowX/500)*500, math.Ceil(highX/500)*500, math.Ceil(highY/5)*5
	x := func(v float64) float64 { return left + (v-lowX)/(highX-lowX)*(width-left-right) }
	y := func(v float64) float64 { return height - bottom - v/highY*(height-bottom-top) }
	colours := []string{"#1b6ca8", "#c0504d", "#7f6084"}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	for v := lowX; v <= highX; v += 500 {
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`+"\n", x(v), top, height-bottom, x(v), height-bottom+18, v)
	}
	for v := 0.0; v <= highY; v += 5 {
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.0f</text>`+"\n", left, y(v), width-right, left-8, y(v)+4, v)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">over-provisioned GiB·h</text><text x="16" y="%d" transform="rotate(-90 16 %d)" text-anchor="middle">OOM kills</text>`+"\n", width/2, height-10, height/2, height/2)
	for i, c := range curves {
		var path strings.Builder
		for j, p := range c.points {
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], x(p.gib), y(float64(p.ooms)))
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), colours[i])
		for _, p := range c.points {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %d OOM kills, %.0f GiB·h</title></circle>`+"\n", x(p.gib), y(float64(p.ooms)), colours[i], p.label, p.ooms, p.gib)
		}
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="14" height="4" fill="%s"/><text x="%d" y="%d">%s, over its margin</text>`+"\n", width-270, top+8+18*i, colours[i], width-250, top+14+18*i, c.name)
	}
	for _, p := range points {
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="6" fill="none" stroke="#000" stroke-width="1.5"/><text x="%.1f" y="%.1f" font-size="11">%s</text>`+"\n", x(p.gib), y(float64(p.ooms)), x(p.gib)+9, y(float64(p.ooms))-7, p.label)
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
