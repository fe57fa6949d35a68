package vpa

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// UsageSeries is the recorded use of one container: percent of the cores and of
// the memory that Replay is told, NaN where a step is not known.
type UsageSeries struct {
	Name string
	Rows []UsageRow // in order of Step
}

// UsageRow is one step of a series.
type UsageRow struct {
	Step          int
	CPUPercent    float64
	MemoryPercent float64
}

var usageHeader = []string{"series", "step", "cpu_percent", "memory_percent"}

// ReadUsage reads a CSV of the columns series, step, cpu_percent and
// memory_percent, in any order of columns and with others beside them; the
// content may be compressed by gzip. An empty field and NaN are steps that are
// not known. A row that cannot be read is an error that names the line.
// Steps of a series are put in order; the same step twice is an error.
func ReadUsage(in io.Reader, name string) ([]UsageSeries, error) {
	buffered := bufio.NewReaderSize(in, 1<<16)
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		gz, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		defer gz.Close()
		return readUsage(gz, name)
	}
	return readUsage(buffered, name)
}

func readUsage(in io.Reader, name string) ([]UsageSeries, error) {
	r := csv.NewReader(in)
	r.ReuseRecord = true
	r.FieldsPerRecord = -1
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: empty, expected the header %s", name, strings.Join(usageHeader, ","))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var columns [4]int
	for i, want := range usageHeader {
		columns[i] = slices.IndexFunc(header, func(h string) bool {
			return strings.TrimSpace(strings.TrimPrefix(h, "\ufeff")) == want
		})
		if columns[i] < 0 {
			return nil, fmt.Errorf("read %s: line 1: no column %s in the header, expected %s", name, want, strings.Join(usageHeader, ","))
		}
	}
	var (
		all   []UsageSeries
		index = map[string]int{}
		lines = map[string]map[int]int{}
	)
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		line, _ := r.FieldPos(0)
		id, row, err := parseUsage(rec, columns)
		if err != nil {
			return nil, fmt.Errorf("read %s: line %d: %w", name, line, err)
		}
		i, ok := index[id]
		if !ok {
			i = len(all)
			index[id], lines[id] = i, map[int]int{}
			all = append(all, UsageSeries{Name: id})
		}
		if first, twice := lines[id][row.Step]; twice {
			return nil, fmt.Errorf("read %s: line %d: step %d of series %s was already on line %d", name, line, row.Step, id, first)
		}
		lines[id][row.Step] = line
		all[i].Rows = append(all[i].Rows, row)
	}
	for i := range all {
		slices.SortFunc(all[i].Rows, func(a, b UsageRow) int { return a.Step - b.Step })
	}
	return all, nil
}

func parseUsage(rec []string, columns [4]int) (string, UsageRow, error) {
	for i, c := range columns {
		if c >= len(rec) {
			return "", UsageRow{}, fmt.Errorf("%d fields, no %s", len(rec), usageHeader[i])
		}
	}
	id := strings.Clone(strings.TrimSpace(rec[columns[0]]))
	if id == "" {
		return "", UsageRow{}, errors.New("series is empty")
	}
	step, err := strconv.Atoi(strings.TrimSpace(rec[columns[1]]))
	if err != nil || step < 0 || step > maxUsageStep {
		return "", UsageRow{}, fmt.Errorf("step %q: expected a whole number from 0 to %d", rec[columns[1]], maxUsageStep)
	}
	row := UsageRow{Step: step}
	for i, into := range map[int]*float64{2: &row.CPUPercent, 3: &row.MemoryPercent} {
		text := strings.TrimSpace(rec[columns[i]])
		if text == "" {
			*into = math.NaN()
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return "", UsageRow{}, fmt.Errorf("%s %q: expected a number", usageHeader[i], text)
		}
		if math.IsInf(v, 0) || v < 0 {
			return "", UsageRow{}, fmt.Errorf("%s %q: expected a number of percent from 0 on", usageHeader[i], text)
		}
		*into = v
	}
	return id, row, nil
}

// maxUsageStep bounds the time of a replay to what a time.Duration can hold at
// steps of a minute and more.
const maxUsageStep = 100_000_000
