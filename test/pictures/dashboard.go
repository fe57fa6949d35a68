package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var noLabel = regexp.MustCompile(`\{\{\w+\}\}`)

// Sizes in pixels: Grafana's grid has 24 columns, and rows of a fixed height.
const (
	column  = 50.0
	gridRow = 26.0
	margin  = 6.0
	points  = 120 // of a line, at most
)

// source is the Prometheus that is asked, and the time that is shown.
type source struct {
	base       string
	start, end time.Time
}

type panel struct {
	Type, Title string
	GridPos     struct{ X, Y, W, H float64 }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Options     struct{ TextMode string }
	Targets     []struct {
		Expr, LegendFormat string
		Instant            bool
	}
}

// line is one series of a panel.
type line struct {
	name   string
	values [][2]float64 // time and value
}

func (s source) query(expr, legend string) ([]line, error) {
	step := max(1, s.end.Sub(s.start).Seconds()/points)
	q := url.Values{"query": {expr}, "start": {fmt.Sprint(s.start.Unix())}, "end": {fmt.Sprint(s.end.Unix())}, "step": {fmt.Sprintf("%.0f", step)}}
	resp, err := http.Get(s.base + "/api/v1/query_range?" + q.Encode())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	var lines []line
	for _, r := range answer.Data.Result {
		l := line{name: legend}
		for k, v := range r.Metric {
			l.name = strings.ReplaceAll(l.name, "{{"+k+"}}", v)
		}
		l.name = strings.TrimSpace(noLabel.ReplaceAllString(l.name, "")) // as Grafana shows a label that is not there
		for _, v := range r.Values {
			at, ok := v[0].(float64)
			text, isText := v[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if !ok || !isText || err != nil {
				return nil, fmt.Errorf("%s: a sample %v", expr, v)
			}
			l.values = append(l.values, [2]float64{at, value})
		}
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.name, b.name) })
	return lines, nil
}

// draw lays out the panels of the rows named.
func draw(dashboard []byte, rows []string, s source) (string, error) {
	var d struct{ Panels []panel }
	if err := json.Unmarshal(dashboard, &d); err != nil {
		return "", err
	}
	variables := strings.NewReplacer("$job", "keeper", "$cluster", ".*", "$__rate_interval", "30s")
	var body strings.Builder
	shown := len(rows) == 0
	shift, bottom, drawn := 0.0, 0.0, 0.0
	for _, p := range d.Panels {
		if p.Type == "row" {
			shown = len(rows) == 0 || slices.Contains(rows, p.Title)
			shift = p.GridPos.Y - drawn
		}
		if !shown {
			continue
		}
		p.GridPos.Y -= shift
		drawn = max(drawn, p.GridPos.Y+p.GridPos.H)
		bottom = drawn * gridRow
		var lines []line
		for _, t := range p.Targets {
			got, err := s.query(variables.Replace(t.Expr), t.LegendFormat)
			if err != nil {
				return "", err
			}
			lines = append(lines, got...)
		}
		p.draw(&body, lines, s)
	}
	if drawn == 0 {
		return "", errors.New("the dashboard has no row of these titles")
	}
	w := 24*column + margin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f">
<style>text{font:11px system-ui,"DejaVu Sans",sans-serif;fill:#ccccdc}.t{font-size:12px;font-weight:600}.r{font-size:15px}.b{font-size:22px;text-anchor:middle}.a{fill:#8e8e9c;font-size:9px}path{fill:none;stroke-width:1.5}</style>
<rect width="100%%" height="100%%" fill="#111217"/>
%s</svg>
`, w, bottom+margin, w, bottom+margin, body.String()), nil
}

// palette are colours that are told apart on a dark ground.
var palette = []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#fade2a", "#96d98d", "#ffb357"}

func (p panel) draw(w *strings.Builder, lines []line, s source) {
	x, y := p.GridPos.X*column+margin, p.GridPos.Y*gridRow+margin
	width, height := p.GridPos.W*column-margin, p.GridPos.H*gridRow-margin
	if p.Type == "row" {
		fmt.Fprintf(w, "<text class=\"r\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", x+4, y+15, html.EscapeString(p.Title))
		return
	}
	fmt.Fprintf(w, "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" rx=\"3\" fill=\"#181b1f\" stroke=\"#2b2d33\"/>\n", x, y, width, height)
	fmt.Fprintf(w, "<text class=\"t\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", x+8, y+17, html.EscapeString(p.Title))
	if p.Type == "stat" {
		text := "–"
		for _, l := range lines {
			last := l.values[len(l.values)-1]
			if last[0] < float64(s.end.Add(-30*time.Second).Unix()) {
				continue // not now any more
			}
			text = human(last[1], p.FieldConfig.Defaults.Unit)
			if p.Options.TextMode == "name" {
				text = l.name
			}
		}
		class := "b"
		if len(text) > 14 {
			class = "b t"
		}
		fmt.Fprintf(w, "<text class=\"%s\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", class, x+width/2, y+height/2+16, html.EscapeString(text))
		return
	}
	p.chart(w, lines, s, x+8, y+26, width-16, height-34)
}

// chart draws the lines over their legend.
func (p panel) chart(w *strings.Builder, lines []line, s source, x, y, width, height float64) {
	const axis, legend = 52.0, 14.0
	top := 0.0
	for _, l := range lines {
		for _, v := range l.values {
			top = max(top, v[1])
		}
	}
	if top == 0 {
		top = 1
	}
	height -= legend
	at := func(v [2]float64) (float64, float64) {
		return x + axis + (width-axis)*(v[0]-float64(s.start.Unix()))/s.end.Sub(s.start).Seconds(), y + height - height*v[1]/(top*1.05)
	}
	for _, part := range []float64{0, 0.5, 1} {
		_, gy := at([2]float64{0, top * part})
		fmt.Fprintf(w, "<text class=\"a\" x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">%s</text><path d=\"M%.0f %.0fh%.0f\" stroke=\"#2b2d33\"/>\n",
			x+axis-5, gy+3, human(top*part, p.FieldConfig.Defaults.Unit), x+axis, gy, width-axis)
	}
	names := x
	for i, l := range lines {
		colour := palette[i%len(palette)]
		var d strings.Builder
		before := math.Inf(-1)
		for _, v := range l.values {
			px, py := at(v)
			cmd := "L"
			if v[0]-before > 2*s.end.Sub(s.start).Seconds()/points+5 {
				cmd = "M"
			}
			before = v[0]
			fmt.Fprintf(&d, "%s%.0f %.0f", cmd, px, py)
		}
		fmt.Fprintf(w, "<path d=\"%s\" stroke=\"%s\"/>\n", d.String(), colour)
		room := float64(len(l.name))*5.2 + 18
		if names+room > x+width {
			continue
		}
		fmt.Fprintf(w, "<rect x=\"%.0f\" y=\"%.0f\" width=\"8\" height=\"3\" fill=\"%s\"/><text class=\"a\" x=\"%.0f\" y=\"%.0f\">%s</text>\n",
			names, y+height+12, colour, names+11, y+height+16, html.EscapeString(l.name))
		names += room
	}
}

// human writes a number in a unit of Grafana's.
func human(v float64, unit string) string {
	switch unit {
	case "bytes", "Bps":
		per := ""
		if unit == "Bps" {
			per = "/s"
		}
		for _, u := range []string{"B", "KiB", "MiB"} {
			if math.Abs(v) < 1024 {
				return strconv.FormatFloat(v, 'f', precision(v), 64) + " " + u + per
			}
			v /= 1024
		}
		return strconv.FormatFloat(v, 'f', precision(v), 64) + " GiB" + per
	case "percentunit":
		return strconv.FormatFloat(v*100, 'f', 0, 64) + "%"
	case "s", "dtdurations":
		return (time.Duration(v*1000) * time.Millisecond).Round(10 * time.Millisecond).String()
	case "bool_yes_no":
		if v == 0 {
			return "No"
		}
		return "Yes"
	}
	return strconv.FormatFloat(v, 'f', precision(v), 64)
}

func precision(v float64) int {
	if v == math.Trunc(v) || math.Abs(v) >= 10 {
		return 0
	}
	return 1
}
