// Command pictures draws the pictures of the README from what the programs really print and answer:
//
//	pictures terminal < TRANSCRIPT > FILE.svg
//	pictures dashboard -prometheus URL [-since 5m] [-rows TITLE,…] deploy/grafana/etcdkeeper.json > FILE.svg
//
// The second asks a Prometheus the queries of the dashboard and lays the answers out as Grafana would. Nothing else is
// read or written.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want terminal or dashboard")
	}
	switch args[0] {
	case "terminal":
		text, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, terminal(string(text)))
		return err
	case "dashboard":
		fs := flag.NewFlagSet("dashboard", flag.ContinueOnError)
		base := fs.String("prometheus", "", "URL of the Prometheus")
		since := fs.Duration("since", 5*time.Minute, "how far back the panels go")
		rows := fs.String("rows", "", "titles of the rows to draw, all where empty")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		if fs.NArg() != 1 {
			return errors.New("dashboard: want the dashboard's file")
		}
		content, err := os.ReadFile(fs.Arg(0))
		if err != nil {
			return err
		}
		end := time.Now()
		picture, err := draw(content, strings.FieldsFunc(*rows, func(r rune) bool { return r == ',' }), source{base: *base, start: end.Add(-*since), end: end})
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, picture)
		return err
	}
	return fmt.Errorf("%q: want terminal or dashboard", args[0])
}
