package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by -ldflags "-X main.version=… -X main.commit=… -X main.date=…"; empty in a plain build.
var version, commit, date string

type versionInfo struct {
	Version   string `json:"version"`
	Commit    string `json:"commit,omitempty"`
	Date      string `json:"date,omitempty"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

// buildVersion is what the linker was told, else what the toolchain wrote into the binary.
func buildVersion() versionInfo {
	v := versionInfo{Version: version, Commit: commit, Date: date, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && v.Commit == "":
			v.Commit = s.Value
		case s.Key == "vcs.time" && v.Date == "":
			v.Date = s.Value
		}
	}
	return v
}

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion()
			return a.print(v, func(w io.Writer) error {
				rows := [][]string{{"version", orUnknown(v.Version)}, {"commit", orUnknown(v.Commit)}, {"date", orUnknown(v.Date)}, {"go", v.GoVersion}, {"platform", v.Platform}}
				for _, r := range rows {
					if _, err := fmt.Fprintf(w, "%-9s %s\n", r[0], r[1]); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}
