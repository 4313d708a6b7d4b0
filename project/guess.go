package project

import (
	"encoding/json"
	"io/fs"
	"path"
	"strings"
)

// guesses are the programs that a file in a folder stands for, the surest first. A guess that finds nothing is nil.
var guesses = []struct {
	file  string
	guess func(dir fs.FS) []string
}{
	{"go.mod", guessGo},
	{"package.json", guessNode},
	{"deno.json", fixed("deno", "task", "start")},
	{"Cargo.toml", fixed("cargo", "run")},
	{"manage.py", fixed("python3", "manage.py", "runserver", "0.0.0.0:8000")},
	{"app.py", fixed("python3", "app.py")},
	{"main.py", fixed("python3", "main.py")},
	{"mvnw", fixed("./mvnw", "spring-boot:run")},
	{"pom.xml", fixed("mvn", "spring-boot:run")},
	{"gradlew", fixed("./gradlew", "bootRun")},
	{"build.gradle", fixed("gradle", "bootRun")},
	{"build.gradle.kts", fixed("gradle", "bootRun")},
	{"bin/rails", fixed("bin/rails", "server", "--binding=0.0.0.0")},
	{"config.ru", fixed("bundle", "exec", "rackup", "--host", "0.0.0.0")},
	{"mix.exs", fixed("mix", "run", "--no-halt")},
	{"artisan", fixed("php", "artisan", "serve", "--host=0.0.0.0")},
}

func fixed(words ...string) func(fs.FS) []string { return func(fs.FS) []string { return words } }

// Guess is the command that runs what is in a folder, by the files that it has; nil where they tell none.
func Guess(dir fs.FS) []string {
	for _, g := range guesses {
		if _, err := fs.Stat(dir, g.file); err != nil {
			continue
		}
		if command := g.guess(dir); command != nil {
			return command
		}
	}
	if found, err := fs.Glob(dir, "*.csproj"); err == nil && len(found) > 0 {
		return []string{"dotnet", "run"}
	}
	return nil
}

// guessGo finds the main package: of the folder, or the only one below cmd.
func guessGo(dir fs.FS) []string {
	if hasMain(dir, ".") {
		return []string{"go", "run", "."}
	}
	entries, err := fs.ReadDir(dir, "cmd")
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if e.IsDir() && hasMain(dir, path.Join("cmd", e.Name())) {
			found = append(found, e.Name())
		}
	}
	if len(found) != 1 {
		return nil
	}
	return []string{"go", "run", "./cmd/" + found[0]}
}

func hasMain(dir fs.FS, folder string) bool {
	files, err := fs.Glob(dir, path.Join(folder, "*.go"))
	if err != nil {
		return false
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := fs.ReadFile(dir, name)
		if err == nil && (strings.HasPrefix(string(text), "package main\n") || strings.Contains(string(text), "\npackage main\n")) {
			return true
		}
	}
	return false
}

// guessNode is the package's script, run by the manager whose lock file is there.
func guessNode(dir fs.FS) []string {
	text, err := fs.ReadFile(dir, "package.json")
	if err != nil {
		return nil
	}
	var about struct {
		Main    string            `json:"main"`
		Scripts map[string]string `json:"scripts"`
	}
	if json.Unmarshal(text, &about) != nil {
		return nil
	}
	manager := "npm"
	for _, lock := range [][2]string{{"pnpm-lock.yaml", "pnpm"}, {"yarn.lock", "yarn"}, {"bun.lock", "bun"}, {"bun.lockb", "bun"}} {
		if _, err := fs.Stat(dir, lock[0]); err == nil {
			manager = lock[1]
		}
	}
	switch {
	case about.Scripts["start"] != "":
		return []string{manager, "start"}
	case about.Scripts["dev"] != "":
		return []string{manager, "run", "dev"}
	case about.Main != "":
		return []string{"node", about.Main}
	}
	return nil
}
