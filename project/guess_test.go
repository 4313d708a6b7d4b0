package project

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestGuess(t *testing.T) {
	cases := []struct{ name, files, want string }{
		{"nothing", "", ""},
		{"go", "go.mod main.go=package_main", "go run ."},
		{"go, documented", "go.mod main.go=//_x\npackage_main", "go run ."},
		{"go below cmd", "go.mod lib.go=package_lib cmd/a/main.go=package_main cmd/b/b.go=package_b", "go run ./cmd/a"},
		{"go, several", "go.mod cmd/a/main.go=package_main cmd/b/main.go=package_main", ""},
		{"go, tests only", "go.mod main_test.go=package_main", ""},
		{"npm", `package.json={"scripts":{"start":"x","dev":"y"}} package-lock.json`, "npm start"},
		{"yarn", `package.json={"scripts":{"dev":"y"}} yarn.lock`, "yarn run dev"},
		{"node", `package.json={"main":"server.js"}`, "node server.js"},
		{"broken package.json goes on", `package.json={ Cargo.toml`, "cargo run"},
		{"django before main.py", "manage.py main.py", "python3 manage.py runserver 0.0.0.0:8000"},
		{"maven's wrapper", "pom.xml mvnw", "./mvnw spring-boot:run"},
		{"dotnet", "shop.csproj", "dotnet run"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := fstest.MapFS{}
			for _, file := range strings.Split(c.files, " ") {
				if name, content, _ := strings.Cut(file, "="); name != "" {
					dir[name] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(content, "_", " ") + "\n")}
				}
			}
			if got := strings.Join(Guess(dir), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestExample reads what is written, with words that YAML would take for something else.
func TestExample(t *testing.T) {
	data, err := Example("near", "1", "deployment/web:app", []string{"yes", "- a", "8080", "it's"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := Parse("/dir/f", data, plainRules())
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if got := strings.Join(file.Sessions[0].Args(), " "); file.Sessions[0].Name != "web" ||
		got != "swap --context=near --namespace=1 deployment/web:app -- yes - a 8080 it's" {
		t.Errorf("session %s: %s\n%s", file.Sessions[0].Name, got, data)
	}
	for _, line := range []string{"dir:", "env:", "expose:", "publish:"} { // as they stand there
		uncommented := strings.Replace(string(data), "# "+line, line, 1)
		if _, err := Parse("/dir/f", []byte(uncommented), plainRules()); err != nil || uncommented == string(data) {
			t.Errorf("%s: %v\n%s", line, err, uncommented)
		}
	}
}
