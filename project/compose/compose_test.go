package compose

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/project"
)

func rules() project.Rules {
	port := func(text string) (string, error) {
		if strings.Contains(text, "-") {
			return "", errors.New(text + " is no port")
		}
		return text, nil
	}
	return project.Rules{
		Target:  func(text string) (project.Target, error) { return project.Target{Text: text, Name: text}, nil },
		New:     func(text string) (project.Target, error) { return project.Target{Text: text, Name: text}, nil },
		Expose:  port,
		Publish: port,
		Port:    port,
	}
}

const shop = `name: shop
services:
  web:
    image: web:${TAG}
    entrypoint: [tini, --]
    command: serve --port "8080"
    environment:
      MODE: ${MODE}
      HERE:
    env_file: web.env
    ports: ["3000:8080", "127.0.0.1:9229:9229", "53:53/udp", "8081"]
    volumes: ["./src:/src:ro", "data:/data", /cache]
    user: "1000"
    x-teleswap:
      target: deployment/web:app
      namespace: shop
      expose: [8080]
      env: {MODE: swapped, VERSION: 1.10}
  worker:
    build: ./worker
    x-teleswap: {target: worker}
  local:
    image: local
    ports: ["1:2"]
    x-teleswap: {target: local, command: [go, run, .], dir: local, publish: [9]}
  db:
    image: postgres
volumes:
  data: {}
`

func write(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRead(t *testing.T) {
	dir := write(t, map[string]string{"c.yml": shop, "web.env": "FROM_FILE='a b'\n", ".env": "TAG=dotenv\nMODE=dev\n"})
	file, err := Read(t.Context(), []string{filepath.Join(dir, "c.yml")}, []string{"TAG=7", "HERE=set"}, rules())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range file.Sessions {
		got = append(got, strings.ReplaceAll(s.Name+" in "+s.Dir+": "+strings.Join(s.Args(), " "), dir, "DIR"), "env "+strings.Join(s.Env, " "))
	}
	want := []string{
		"local in DIR/local: swap --publish=9 local -- go run .",
		"env ",
		"web in DIR: swap --namespace=shop --expose=8080 --publish=3000:8080 --publish=127.0.0.1:9229:9229 --publish=53:53/udp --publish=0:8081 " +
			"deployment/web:app --docker-run --rm --volume=DIR/src:/src:ro --volume=shop_data:/data --volume=/cache --user=1000 --entrypoint=tini " +
			"web:7 -- serve --port 8080",
		"env FROM_FILE=a b HERE=set MODE=dev MODE=swapped VERSION=1.10",
		"worker in DIR: swap worker --docker-run --rm shop-worker",
		"env ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReadErrors(t *testing.T) {
	service := func(lines string) string {
		return "services:\n  web:\n    image: web\n    " + strings.ReplaceAll(lines, "\n", "\n    ") + "\n"
	}
	cases := []struct{ name, text, want string }{
		{"no file", "", "no such file"},
		{"nothing named", service("ports: ['1:1']"), "no service has x-teleswap, so there is nothing to swap"},
		{"not compose's", service("colume: 1"), "docker compose -f"},
		{"unknown key", service("x-teleswap:\n  target: web\n  exposes: [1]"), `c.yml:6:7: x-teleswap of web: unknown key "exposes"; did you mean expose?`},
		{"no target", service("x-teleswap: {}"), "c.yml:4:17: x-teleswap of web: the file has no target"},
		{"a list", service("x-teleswap: [a]"), "c.yml:4:17: x-teleswap of web: "},
		{"an image", service("x-teleswap: {target: web, image: other}"), "c.yml:4:38: web: image: the image is the service's"},
		{"a range", service("ports: ['8000-8010:80']\nx-teleswap: {target: web}"), "8000-8010:80 is no port"},
		{"a port of two", service("ports: ['1:1']\nx-teleswap: {target: web}") + "  b:\n    image: b\n    ports: ['1:1']\n    x-teleswap: {target: b}\n", "publishes 1:1 already"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{"c.yml": c.text}
			if c.text == "" {
				delete(files, "c.yml")
			}
			path := filepath.Join(write(t, files), "c.yml")
			_, err := Read(t.Context(), []string{path}, nil, rules())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
