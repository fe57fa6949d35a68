package main

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Sizes of the terminal in pixels: a monospaced letter of 12 px is about 7.25 px wide.
const (
	letter  = 7.25
	leading = 16
	columns = 150 // what is longer is cut off, as on a terminal that is that wide
)

// What is different every time, and says nothing: the demo's ports and its temporary directory.
var (
	demoEndpoints = regexp.MustCompile(` --endpoints \S+`)
	demoDirectory = regexp.MustCompile(`\S*etcdkeeper-demo-\d+/`)
)

// terminal draws a transcript: a line that begins with "$ " is a command.
func terminal(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	var body strings.Builder
	width := 60
	for i, line := range lines {
		line = demoDirectory.ReplaceAllString(demoEndpoints.ReplaceAllString(line, ""), "")
		if utf8.RuneCountInString(line) > columns {
			line = string([]rune(line)[:columns-1]) + "…"
		}
		width = max(width, utf8.RuneCountInString(line))
		class := ""
		if strings.HasPrefix(line, "$ ") {
			class = ` class="c"`
		}
		if line != "" {
			fmt.Fprintf(&body, "<text%s x=\"12\" y=\"%d\">%s</text>\n", class, 24+i*leading, html.EscapeString(line))
		}
	}
	w, h := 24+letter*float64(width), 20+len(lines)*leading
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 %.0f %d" width="%.0f" height="%d">
<style>text{font:12px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;fill:#d8dee9;white-space:pre}.c{fill:#88c0d0;font-weight:bold}</style>
<rect width="100%%" height="100%%" rx="6" fill="#242933"/>
%s</svg>
`, w, h, w, h, body.String())
}
