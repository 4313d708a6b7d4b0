package podview

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

var errSpaces = errors.New("a name has no spaces in it")

// ParseEnv reads one NAME=VALUE, or NAME alone for the laptop's value, which lookup knows: ok is false where it has none.
func ParseEnv(text string, lookup func(string) (string, bool)) (kv string, ok bool, err error) {
	name, _, hasValue := strings.Cut(text, "=")
	switch {
	case name == "":
		return "", false, errors.New("there is no name in front of the =")
	case strings.ContainsFunc(name, unicode.IsSpace):
		return "", false, errSpaces
	case strings.ContainsRune(text, 0):
		return "", false, fmt.Errorf("%q has a NUL byte, which no variable can hold", name)
	case hasValue:
		return text, true, nil
	}
	value, ok := lookup(name)
	return name + "=" + value, ok, nil
}

// ParseEnvFile reads variables in the format of docker run's --env-file: a NAME=VALUE a line, the value as it stands, with its
// quotes and its spaces and without any expansion; a NAME alone takes the laptop's value, which lookup knows; blank lines and
// those that begin with # are nothing. The error names the line, and no value.
func ParseEnvFile(r io.Reader, lookup func(string) (string, bool)) ([]string, error) {
	var env []string
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		raw, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if n == 1 {
			raw = bytes.TrimPrefix(raw, []byte("\ufeff")) // some editors begin with it
		}
		raw = bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
		line := strings.TrimLeftFunc(string(raw), unicode.IsSpace)
		if line != "" && line[0] != '#' {
			name, _, _ := strings.Cut(line, "=")
			if strings.ContainsFunc(name, unicode.IsSpace) {
				return nil, fmt.Errorf("line %d: %w (the format is NAME=VALUE, without export and without quotes)", n, errSpaces)
			}
			kv, ok, err := ParseEnv(line, lookup)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			if ok {
				env = append(env, kv)
			}
		}
		if err != nil {
			return env, nil
		}
	}
}

// EnvLines are variables as ParseEnvFile reads them, a line each. Those of several lines cannot stand there:
// their names are returned.
func EnvLines(env []string) (data []byte, left []string) {
	var out bytes.Buffer
	for _, kv := range env {
		name, value, ok := split(kv)
		switch {
		case !ok:
		case strings.ContainsAny(value, "\n\r"):
			left = append(left, name)
		default:
			out.WriteString(kv + "\n")
		}
	}
	return out.Bytes(), left
}

// EnvJSON is a JSON object of variables, with a newline at its end. JSON is Unicode: in values that are not
// UTF-8 each wrong byte becomes U+FFFD, and their names are returned.
func EnvJSON(env []string) (data []byte, mangled []string, err error) {
	object := make(map[string]string, len(env))
	for _, kv := range env {
		name, value, ok := split(kv)
		if !ok {
			continue
		}
		object[name] = value
		if !utf8.ValidString(kv) {
			mangled = append(mangled, name)
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(object)
	return out.Bytes(), mangled, err
}
