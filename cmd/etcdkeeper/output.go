package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/schollz/progressbar/v3"
	"sigs.k8s.io/yaml"

	"github.com/etcdkeeper/etcdkeeper/internal/bytesize"
)

// unknown stands in a table for what is not known; JSON has null.
const unknown = "–"

// print writes v as --write-out asks: JSON, the same in YAML, or the table.
func (a *app) print(v any, table func(io.Writer) error) error {
	switch a.writeOut {
	case "table":
		return table(a.stdout)
	case "json":
		enc := json.NewEncoder(a.stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(data)
		return err
	}
	return usagef("--write-out %q: want one of table, json, yaml", a.writeOut)
}

// writeTable writes rows below a header, in the one style of all commands. A column whose title begins with ">" is
// aligned to the right: numbers.
func writeTable(w io.Writer, header []string, rows [][]string) error {
	titles := make([]string, len(header))
	aligns := make([]tw.Align, len(header))
	for i, h := range header {
		aligns[i] = tw.AlignLeft
		if rest, ok := strings.CutPrefix(h, ">"); ok {
			h, aligns[i] = rest, tw.AlignRight
		}
		titles[i] = strings.ToUpper(h)
	}
	column := tw.CellAlignment{PerColumn: aligns}
	padding := tw.CellPadding{Global: tw.Padding{Left: "", Right: "  ", Overwrite: true}}
	var buf strings.Builder
	t := tablewriter.NewTable(&buf,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders:  tw.BorderNone,
			Settings: tw.Settings{Lines: tw.LinesNone, Separators: tw.SeparatorsNone},
		})),
		tablewriter.WithConfig(tablewriter.Config{
			Header:   tw.CellConfig{Alignment: column, Padding: padding, Formatting: tw.CellFormatting{AutoFormat: tw.Off, AutoWrap: tw.WrapNone}},
			Row:      tw.CellConfig{Alignment: column, Padding: padding, Formatting: tw.CellFormatting{AutoFormat: tw.Off, AutoWrap: tw.WrapNone}},
			Behavior: tw.Behavior{TrimSpace: tw.Off},
		}),
	)
	t.Header(titles)
	for _, r := range rows {
		if err := t.Append(r); err != nil {
			return err
		}
	}
	if err := t.Render(); err != nil {
		return err
	}
	for line := range strings.Lines(buf.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// humanBytes is a size for a table.
func humanBytes(n int64) string { return bytesize.Bytes(n).Human() }

// humanBytesOr is humanBytes, or – where the size is not known.
func humanBytesOr(n *int64) string {
	if n == nil {
		return unknown
	}
	return humanBytes(*n)
}

// humanSeconds is a number of seconds for a table: two digits that matter, then minutes, hours and days.
func humanSeconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 0:
		return "-" + humanSeconds(-s)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", s)
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0fs", s)
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0fm", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0fh", d.Hours())
	}
	return fmt.Sprintf("%.0fd", d.Hours()/24)
}

// humanSecondsOr is humanSeconds, or – where the number is not known.
func humanSecondsOr(s *float64) string {
	if s == nil {
		return unknown
	}
	return humanSeconds(*s)
}

// orUnknown is s, or – where it is empty.
func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// progress is a bar on standard error where that is a terminal, and nothing elsewhere. A negative max is a spinner.
func (a *app) progress(max int64, what string) *progressbar.ProgressBar {
	w := a.stderr
	if !isTerminal(w) {
		w = io.Discard
	}
	return progressbar.NewOptions64(max,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetVisibility(isTerminal(a.stderr)),
	)
}
