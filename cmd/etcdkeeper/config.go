package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newConfigCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	cmd.AddCommand(newConfigPrintCmd(a), newConfigValidateCmd(a))
	return cmd
}

type configPrint struct {
	File   *string       `json:"file"`
	Values []configValue `json:"values"`
}

type configValue struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Source string `json:"source"`
	Env    string `json:"env"`
}

func newConfigPrintCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "print",
		Short: "Print the effective value of every key and where it came from",
		Long: "Print the effective value of every key and where it came from: a flag, a variable, the file or the default.\n" +
			"Passwords are masked.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := a.loadConfig(cmd); err != nil {
				return err
			}
			out := configPrint{}
			if a.loaded.File != "" {
				out.File = &a.loaded.File
			}
			for _, v := range a.loaded.Values {
				out.Values = append(out.Values, configValue{Key: v.Key.Path, Value: v.Plain(), Source: v.Source, Env: v.Key.Env})
			}
			return a.print(out, func(w io.Writer) error {
				var rows [][]string
				for _, v := range a.loaded.Values {
					rows = append(rows, []string{v.Key.Path, orUnknown(v.Text()), v.Source})
				}
				return writeTable(w, []string{"key", "value", "source"}, rows)
			})
		},
	}
}

func newConfigValidateCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration and report every error at once",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := a.loadConfig(cmd); err != nil {
				return err
			}
			result := struct {
				File  *string `json:"file"`
				Valid bool    `json:"valid"`
			}{Valid: true}
			if a.loaded.File != "" {
				result.File = &a.loaded.File
			}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "the configuration is valid")
				return err
			})
		},
	}
}
