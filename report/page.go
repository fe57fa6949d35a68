// Package report draws pictures and pages: treemaps, bars, charts and self-contained HTML. It reads results and
// fetches nothing; its pages need no script and no network. All its functions are pure and safe for concurrent use.
package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// Page is a self-contained HTML page. A capability adds itself to one by appending sections.
type Page struct {
	Title    string
	Subtitle string
	Sections []Section
}

// Section is a part of a page with a heading. Body is made by this package's functions, which escape all text.
type Section struct {
	ID    string // of the heading, for links
	Title string
	Body  template.HTML
}

// Size is a number of bytes for people.
func Size(n int64) string { return bytesize.Bytes(n).Human() }

// Unknown stands for what is not known.
const Unknown = "–"

// Style is the CSS that bodies of sections need, for pages that are not written by Write.
const Style = template.CSS(`
.treemap { width: 100%; height: auto; display: block; border-radius: 6px; }
.treemap .cell { fill: hsl(var(--hue) 55% calc(72% + var(--step) * 4%)); stroke: hsl(var(--hue) 40% 98%); stroke-width: .6; }
.treemap .cell:hover { fill: hsl(var(--hue) 75% 62%); }
.treemap .frame { fill: none; stroke: #fff; stroke-width: 2; pointer-events: none; }
.treemap text { font: 600 14px system-ui, sans-serif; fill: #16202b; pointer-events: none; }
.treemap text.small { font-weight: 400; font-size: 12.5px; }
.bar { display: flex; height: 1.6rem; border-radius: 4px; overflow: hidden; background: #8884; }
.bar span { min-width: 1px; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .5rem 0; list-style: none; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.p0 { background: #3b7dd8; } .p1 { background: #e0a030; } .p2 { background: #b0539a; } .p3 { background: #7a8794; } .p4 { background: #5aa469; }
.chart { width: 100%; height: auto; } .chart text { font: 12px system-ui, sans-serif; fill: currentColor; }
.chart polyline { fill: none; stroke-width: 2; } .chart .axis { stroke: currentColor; stroke-opacity: .25; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { overflow-wrap: anywhere; } td:first-child { min-width: min(14rem, 45vw); }
.finding { border-left: 4px solid #7a8794; padding: .1rem .9rem; margin: .8rem 0; }
.finding.warning { border-color: #d98c00; } .finding.critical { border-color: #c62828; }
.finding p { margin: .25rem 0; } .advice { opacity: .8; }
@media (prefers-color-scheme: dark) {
  .treemap .cell { fill: hsl(var(--hue) 32% calc(34% + var(--step) * 4%)); stroke: hsl(var(--hue) 25% 16%); }
  .treemap .cell:hover { fill: hsl(var(--hue) 45% 48%); }
  .treemap .frame { stroke: #14181d; } .treemap text { fill: #f2f5f8; }
}`)

var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{.Page.Title}}</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 76rem; margin: 1.5rem auto; padding: 0 1rem; background: Canvas; color: CanvasText; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.sub { margin: .2rem 0 1rem; opacity: .75; } nav a { margin-right: 1rem; }
{{.Style}}
</style>
</head>
<body>
<header><h1>{{.Page.Title}}</h1>{{with .Page.Subtitle}}<p class="sub">{{.}}</p>{{end}}</header>
<nav aria-label="Sections">{{range .Page.Sections}}<a href="#{{.ID}}">{{.Title}}</a> {{end}}</nav>
<main>{{range .Page.Sections}}
<section aria-labelledby="{{.ID}}"><h2 id="{{.ID}}">{{.Title}}</h2>
{{.Body}}</section>{{end}}
</main>
</body>
</html>
`))

// Write writes the page.
func Write(w io.Writer, p Page) error {
	return pageTemplate.Execute(w, struct {
		Page  Page
		Style template.CSS
	}{p, Style})
}

// Table draws rows below a header. A title that begins with ">" aligns its column to the right: numbers.
func Table(caption string, header []string, rows [][]string) template.HTML {
	if len(rows) == 0 {
		return "<p>None.</p>"
	}
	var b strings.Builder
	right := make([]bool, len(header))
	fmt.Fprintf(&b, `<div class="scroll" tabindex="0" role="region" aria-label="%s"><table><thead><tr>`, escape(caption))
	for i, h := range header {
		h, right[i] = strings.CutPrefix(h, ">")
		fmt.Fprintf(&b, `<th scope="col"%s>%s</th>`, class(right[i]), escape(h))
	}
	b.WriteString("</tr></thead><tbody>")
	for _, row := range rows {
		b.WriteString("<tr>")
		for i, text := range row {
			fmt.Fprintf(&b, "<td%s>%s</td>", class(i < len(right) && right[i]), escape(text))
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody></table></div>")
	return template.HTML(b.String())
}

func class(number bool) string {
	if number {
		return ` class="n"`
	}
	return ""
}

// Part is a part of a bar.
type Part struct {
	Name  string
	Value int64
}

// Bar draws parts of a whole beside each other, with a legend that has the numbers. Five parts have colours.
func Bar(label string, parts []Part) template.HTML {
	total := int64(0)
	for _, p := range parts {
		total += max(0, p.Value)
	}
	if total == 0 {
		return "<p>Nothing is known.</p>"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<div class="bar" role="img" aria-label="%s">`, escape(label))
	for i, p := range parts {
		fmt.Fprintf(&b, `<span class="p%d" style="width:%.4f%%" title="%s: %s"></span>`, i%5, 100*float64(max(0, p.Value))/float64(total), escape(p.Name), Size(p.Value))
	}
	b.WriteString(`</div><ul class="legend">`)
	for i, p := range parts {
		fmt.Fprintf(&b, `<li><i class="p%d"></i>%s %s (%.1f %%)</li>`, i%5, escape(p.Name), Size(p.Value), 100*float64(max(0, p.Value))/float64(total))
	}
	b.WriteString("</ul>")
	return template.HTML(b.String())
}

// Line is a series of a chart.
type Line struct {
	Name   string
	Points []Point
}

// Point is a size at a time.
type Point struct {
	At    time.Time
	Bytes int64
}

var lineColours = []string{"#3b7dd8", "#d98c00", "#b0539a", "#5aa469", "#c0504d", "#7a8794", "#2aa0a4"}

// Chart draws sizes over time, from zero, with a dashed line at limit where that is above 0.
func Chart(label string, lines []Line, limit int64) template.HTML {
	const w, h, left, bottom = 900.0, 260.0, 76.0, 24.0
	var from, to time.Time
	top := limit
	for _, l := range lines {
		for _, p := range l.Points {
			if from.IsZero() || p.At.Before(from) {
				from = p.At
			}
			if p.At.After(to) {
				to = p.At
			}
			top = max(top, p.Bytes)
		}
	}
	if !to.After(from) || top == 0 {
		return "<p>There are too few measurements for a chart yet.</p>"
	}
	x := func(t time.Time) float64 { return left + (w-left-8)*t.Sub(from).Seconds()/to.Sub(from).Seconds() }
	y := func(n int64) float64 { return 10 + (h-10-bottom)*(1-float64(n)/(1.05*float64(top))) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" role="img" aria-label="%s" viewBox="0 0 %g %g" xmlns="http://www.w3.org/2000/svg">`, escape(label), w, h)
	for i := range 5 {
		n := top * int64(i) / 4
		fmt.Fprintf(&b, `<line class="axis" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`, left, w-8, y(n), y(n), left-6, y(n)+4, Size(n))
	}
	if limit > 0 {
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#c62828" stroke-dasharray="6 4"><title>quota %s</title></line>`, left, w-8, y(limit), y(limit), Size(limit))
	}
	const layout = "2006-01-02 15:04"
	fmt.Fprintf(&b, `<text x="%g" y="%g">%s</text><text x="%g" y="%g" text-anchor="end">%s</text>`, left, h-6, from.Format(layout), w-8, h-6, to.Format(layout))
	for i, l := range lines {
		fmt.Fprintf(&b, `<polyline stroke="%s" points="`, lineColours[i%len(lineColours)])
		for _, p := range l.Points {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(p.At), y(p.Bytes))
		}
		fmt.Fprintf(&b, `"><title>%s</title></polyline>`, escape(l.Name))
	}
	b.WriteString(`</svg><ul class="legend">`)
	for i, l := range lines {
		fmt.Fprintf(&b, `<li><i style="background:%s"></i>%s</li>`, lineColours[i%len(lineColours)], escape(l.Name))
	}
	b.WriteString("</ul>")
	return template.HTML(b.String())
}

// Text is a paragraph.
func Text(s string) template.HTML { return template.HTML("<p>" + escape(s) + "</p>") }
