package report

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/etcdkeeper/etcdkeeper/census"
)

// TestCensus_InBrowser looks at the page in headless Chromium, from a file and without a network, in light and in dark.
func TestCensus_InBrowser(t *testing.T) {
	for _, dark := range []bool{false, true} {
		t.Run(map[bool]string{false: "light", true: "dark"}[dark], func(t *testing.T) { inBrowser(t, dark) })
	}
}

func inBrowser(t *testing.T, dark bool) {
	if testing.Short() {
		t.Skip("a browser is left out under -short")
	}
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Fatal("no chromium found: install Debian's package chromium")
	}
	c := sample(true)
	path := filepath.Join(t.TempDir(), "census.html")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Census(f, c); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.WSURLReadTimeout(2*time.Minute), chromedp.Flag("disable-dev-shm-usage", true))
	if dark {
		opts = append(opts, chromedp.Flag("blink-settings", "preferredColorScheme=0"))
	}
	alloc, stop := chromedp.NewExecAllocator(t.Context(), opts...)
	defer stop()
	ctx, end := chromedp.NewContext(alloc)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()

	if err := chromedp.Do(ctx, chromedp.Navigate("file://"+path)); err != nil {
		t.Fatal(err)
	}
	cells := look[[]cell](t, ctx, `[...document.querySelectorAll('.treemap .tile')].flatMap((tile, n) => [...tile.querySelectorAll('.cell')].map(r => {
		const b = r.getBBox(), f = tile.querySelector('.frame').getBBox(); return { tile: n, area: b.width * b.height, frame: f.width * f.height,
		inside: b.x > f.x - .01 && b.y > f.y - .01 && b.x + b.width < f.x + f.width + .01 && b.y + b.height < f.y + f.height + .01,
		title: r.querySelector('title').textContent } }))`)
	elements := look[int](t, ctx, `document.querySelectorAll('script, img, link, iframe, object').length`)
	tables := look[int](t, ctx, `document.querySelectorAll('table').length`)
	text := look[string](t, ctx, `document.body.innerText`)
	label := look[string](t, ctx, `document.querySelector('.treemap').getAttribute('aria-label')`)
	fetched := look[[]string](t, ctx, `performance.getEntriesByType('resource').map(e => e.name)`)
	colour := look[string](t, ctx, `getComputedStyle(document.querySelector('.treemap .cell')).fill`)
	// Brightness of the page, its text, its secondary text and the text of the map, from 0 to 255.
	brightness := look[[]float64](t, ctx, `(() => {
		const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
		const of = c => { paint.fillStyle = c; paint.fillRect(0, 0, 1, 1); const [r, g, b] = paint.getImageData(0, 0, 1, 1).data; return .3*r + .59*g + .11*b };
		const style = s => getComputedStyle(document.querySelector(s));
		return [of(style('body').backgroundColor), of(style('body').color), of(style('td').color), of(style('.treemap .cell').fill), of(style('.treemap text').fill)] })()`)
	if page, text, rows := brightness[0], brightness[1], brightness[2]; dark != (page < 64) || math.Abs(page-text) < 150 || math.Abs(page-rows) < 150 {
		t.Errorf("dark %v: the page's brightness is %.0f, its text's %.0f and %.0f", dark, page, text, rows)
	}
	if dark != (brightness[3] < 128) || math.Abs(brightness[3]-brightness[4]) < 90 {
		t.Errorf("dark %v: the map's brightness is %.0f, its text's %.0f", dark, brightness[3], brightness[4])
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(360, 740)); err != nil {
		t.Fatal(err)
	}
	small := look[[]string](t, ctx, `[...document.querySelectorAll('h1, h2, p, li, td, th')].filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.textContent)`)
	outside := look[[]string](t, ctx, `[...document.querySelectorAll('h1, h2, p, li, svg, nav a')].filter(e => e.getBoundingClientRect().right > 361).map(e => e.textContent)`)
	if len(small)+len(outside) != 0 {
		t.Errorf("on a phone, too small: %q; cut: %q", small, outside)
	}
	overflow := look[bool](t, ctx, `document.documentElement.scrollWidth > document.documentElement.clientWidth + 1`)
	checkAreas(t, c, cells)
	if len(cells) < 12 || tables < 5 || label == "" {
		t.Errorf("got %d cells, %d tables, the label %q", len(cells), tables, label)
	}
	if elements != 0 {
		t.Errorf("names became %d elements", elements)
	}
	if !strings.Contains(text, nasty) {
		t.Error("the names are not shown as they are")
	}
	if len(fetched) != 0 {
		t.Errorf("the page fetched %v", fetched)
	}
	if overflow {
		t.Error("the page is wider than a phone")
	}
	if colour == "" || colour == "none" || colour == "rgb(0, 0, 0)" {
		t.Errorf("the map has no colours: %q", colour)
	}
}

// cell is a rectangle of the map, as the browser lays it out.
type cell struct {
	Tile   int     `json:"tile"` // which resource's frame it stands in
	Area   float64 `json:"area"`
	Frame  float64 `json:"frame"`
	Inside bool    `json:"inside"` // of the frame
	Title  string  `json:"title"`
}

// checkAreas compares the area of each resource, and of each namespace in it, with their bytes in the census.
func checkAreas(t *testing.T, c *census.Census, cells []cell) {
	t.Helper()
	unit := mapWidth * mapHeight / float64(c.Bytes)
	near := func(got float64, bytes int64) bool {
		return math.Abs(got-unit*float64(bytes)) <= 0.01*unit*float64(bytes)+0.5
	}
	found := map[string]cell{}
	for _, cell := range cells {
		if _, twice := found[cell.Title]; twice || !cell.Inside {
			t.Errorf("%s: drawn twice, or outside of its resource", cell.Title)
		}
		found[cell.Title] = cell
	}
	for _, r := range c.Resources {
		if float64(r.Bytes) < minTile*float64(c.Bytes) {
			continue // among the smaller ones
		}
		rest, tiles := r.Bytes, map[int]bool{}
		expect := func(title string, bytes int64) {
			t.Helper()
			got, ok := found[title]
			if !ok || !near(got.Area, bytes) || !near(got.Frame, r.Bytes) {
				t.Errorf("%s: got %+v (found: %v), want an area of %f in one of %f", title, got, ok, unit*float64(bytes), unit*float64(r.Bytes))
			}
			tiles[got.Tile] = true
			delete(found, title)
		}
		for _, n := range r.Namespaces {
			if n.Namespace != "" {
				expect(fmt.Sprintf("%s, %s: %s in %d keys", r.Name(), n.Namespace, Size(n.Bytes), n.Keys), n.Bytes)
				rest -= n.Bytes
			}
		}
		if rest == r.Bytes {
			expect(fmt.Sprintf("%s: %s", r.Name(), Size(rest)), rest)
		} else if rest > 0 {
			expect(fmt.Sprintf("%s, all else: %s", r.Name(), Size(rest)), rest)
		}
		if len(tiles) != 1 {
			t.Errorf("%s is drawn in %d frames", r.Name(), len(tiles))
		}
	}
	if _, ok := found["1 smaller one: "+Size(300)]; !ok || len(found) != 1 {
		t.Errorf("got besides: %+v, want the resource that is too small to see", found)
	}
}

// look evaluates an expression in the page.
func look[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}
