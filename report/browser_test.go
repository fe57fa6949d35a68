package report

import (
	"context"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
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

	type cell struct {
		Value float64 `json:"value"`
		Area  float64 `json:"area"`
		Title string  `json:"title"`
	}
	if err := chromedp.Do(ctx, chromedp.Navigate("file://"+path)); err != nil {
		t.Fatal(err)
	}
	cells := look[[]cell](t, ctx, `[...document.querySelectorAll('.treemap .cell')].map(r => { const b = r.getBBox(); return {
		value: +r.dataset.value, area: b.width * b.height, title: r.querySelector('title').textContent } })`)
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
	total := 0.0
	for _, c := range cells {
		total += c.Value
	}
	if int64(total) != c.Bytes {
		t.Errorf("the map shows %f bytes, the census has %d", total, c.Bytes)
	}
	for _, c := range cells {
		want := mapWidth * mapHeight * c.Value / total
		if math.Abs(c.Area-want) > 0.01*want+0.5 {
			t.Errorf("%s: area %f, want %f", c.Title, c.Area, want)
		}
	}
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

// look evaluates an expression in the page.
func look[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}
