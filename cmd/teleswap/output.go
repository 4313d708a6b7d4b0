package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// outputFormat is the flag -o of verbs whose answer a script would read.
type outputFormat string

func (o *outputFormat) add(cmd *cobra.Command) {
	cmd.Flags().VarP(o, "output", "o", "format of the answer: json or yaml")
	formats := cobra.FixedCompletions([]string{"json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("output", formats); err != nil {
		cobra.CompErrorln(err.Error())
	}
}

// String, Set and Type are pflag.Value.
func (o *outputFormat) String() string { return string(*o) }

func (o *outputFormat) Set(s string) error {
	if s != "json" && s != "yaml" {
		return fmt.Errorf("there is json and yaml, not %q", s)
	}
	*o = outputFormat(s)
	return nil
}

func (o *outputFormat) Type() string { return "format" }

// write prints v in the wanted format; human prints it for people.
func (o *outputFormat) write(w io.Writer, v any, human func() error) error {
	var data []byte
	var err error
	switch *o {
	case "json":
		data, err = json.MarshalIndent(v, "", "  ")
		data = append(data, '\n')
	case "yaml":
		data, err = yaml.Marshal(v)
	default:
		return human()
	}
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	_, err = w.Write(data)
	return err
}

// noArguments answers words after a verb that takes none.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s takes no arguments, but %q was given", cmd.CommandPath(), args[0])
	}
	return nil
}

// oneArgument answers too many words after a verb that takes one at most.
func oneArgument(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage("%s takes one argument at most, but %q was given too", cmd.CommandPath(), args[1])
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
