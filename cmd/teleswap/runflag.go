package main

import (
	"slices"
	"strings"
)

const runFlag = "--run"

// splitRun takes the command off a swap's arguments: everything after --run belongs to
// it, flags and all, which no flag parser would grant. A -- in front of --run means
// that the command has begun already.
func splitRun(args []string) (rest, command []string, err error) {
	verb := slices.Index(args, "swap")
	if verb < 0 || strings.HasPrefix(args[0], "__") { // __complete must see all of it
		return args, nil, nil
	}
	for i := verb + 1; i < len(args); i++ {
		switch first, joined := strings.CutPrefix(args[i], runFlag+"="); {
		case args[i] == "--":
			return args, nil, nil
		case args[i] == runFlag:
			command = args[i+1:]
		case joined:
			command = append([]string{first}, args[i+1:]...)
		default:
			continue
		}
		if len(command) == 0 || command[0] == "" {
			return nil, nil, usage("--run needs a command: teleswap swap --deployment NAME --run COMMAND ARGUMENTS…")
		}
		return args[:i], command, nil
	}
	return args, nil, nil
}
