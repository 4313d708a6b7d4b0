package bugreport

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Hidden stands where a secret was.
const Hidden = "(left-out)"

// minSecret is the shortest value that is looked for: shorter ones are in every text.
const minSecret = 4

// Scrubber takes secrets out of texts: those that it was told, and what looks like one.
type Scrubber struct {
	known []string // longest first
	whole *strings.Replacer
}

// Know adds values that must be in no text, as they are, and as base64, URLs and JSON write them. Values of common words and numbers
// are left: what is hidden with them would be the report.
func (s *Scrubber) Know(values ...string) {
	for _, v := range values {
		for _, form := range forms(strings.TrimSpace(v)) {
			if len(form) >= minSecret && !common(form) && !slices.Contains(s.known, form) {
				s.known = append(s.known, form)
			}
		}
	}
	slices.SortFunc(s.known, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	pairs := make([]string, 0, 2*len(s.known))
	for _, v := range s.known {
		pairs = append(pairs, v, Hidden)
	}
	s.whole = strings.NewReplacer(pairs...)
}

// forms are the ways in which a value is written.
func forms(v string) []string {
	if v == "" {
		return nil
	}
	out := []string{
		v, base64.StdEncoding.EncodeToString([]byte(v)), base64.RawStdEncoding.EncodeToString([]byte(v)),
		base64.URLEncoding.EncodeToString([]byte(v)), url.QueryEscape(v), url.PathEscape(v),
	}
	if quoted, err := json.Marshal(v); err == nil {
		out = append(out, strings.Trim(string(quoted), `"`))
	}
	// A text of several lines may be indented, or cut into lines by a logger.
	for line := range strings.Lines(v) {
		if line = strings.TrimSpace(line); len(line) >= 16 && !strings.HasPrefix(line, "-----") {
			out = append(out, line)
		}
	}
	return out
}

var commonValue = regexp.MustCompile(`^(?i:true|false|none|null|yes|no|on|off|default|enabled|disabled|local|localhost|test|auto|info|debug|warn|error|[0-9]{1,7})$`)

func common(v string) bool { return commonValue.MatchString(v) }

// pem is a private key (RFC 7468), as it is or with its line ends escaped.
var pem = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`)

// shapes are what other secrets look like, and what stands there instead.
var shapes = []struct {
	is *regexp.Regexp
	by string
}{
	// JSON Web Tokens (RFC 7519): ServiceAccounts' tokens, too.
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)?`), Hidden},
	{regexp.MustCompile(`(?i)\b(bearer|basic|digest|negotiate)[ +]+[A-Za-z0-9._~+/=-]{8,}`), "$1 " + Hidden},
	// What URLs have before their host (RFC 3986 section 3.2.1).
	{regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s"'@]+@`), "${1}" + Hidden + "@"},
	// Keys of well-known services.
	{regexp.MustCompile(`\b(A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|sk-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|k8s-aws-v1\.[A-Za-z0-9_-]{20,})`), Hidden},
	// The beginnings of certificates and keys in base64 ("-----BEGIN").
	{regexp.MustCompile(`\bLS0tLS1CRUdJTi[A-Za-z0-9+/=_-]{16,}`), Hidden},
	{regexp.MustCompile(`(?i)(--[a-z0-9-]*(?:password|passwd|passphrase|secret|token|api-?key|access-?key)\s+)([^\s-]\S*)`), "${1}" + Hidden},
}

// assigned is NAME=VALUE, NAME: VALUE and "NAME":"VALUE" where the name tells.
var assigned = regexp.MustCompile(`(?i)\b([a-z0-9_.-]*(?:password|passwd|passphrase|secret|token|credentials?|api[_-]?key|access[_-]?key|private[_-]?key|client-key-data|client-certificate-data)\\?["']?[ \t]*[=:][ \t]*)(\\"[^"\\]*\\"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"',;&}]+)`)

// hideAssigned leaves the name, and values that tell nothing.
func hideAssigned(match string) string {
	parts := assigned.FindStringSubmatch(match)
	if common(strings.Trim(parts[2], `"'\`)) {
		return match
	}
	quote := parts[2][:len(parts[2])-len(strings.TrimLeft(parts[2], `"'\`))]
	if !strings.HasSuffix(parts[2], quote) {
		quote = ""
	}
	return parts[1] + quote + Hidden + quote
}

// Text is the text without secrets.
func (s *Scrubber) Text(text string) string {
	text = pem.ReplaceAllString(text, Hidden)
	if s.whole != nil {
		text = s.whole.Replace(text)
	}
	for _, shape := range shapes {
		text = shape.is.ReplaceAllString(text, shape.by)
	}
	return assigned.ReplaceAllStringFunc(text, hideAssigned)
}
