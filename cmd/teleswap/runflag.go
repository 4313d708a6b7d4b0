package main

import (
	"slices"
	"strings"
)

const (
	runFlag    = "--run"
	dockerFlag = "--docker-run"
)

// splitRun takes the command off a swap's arguments: everything after --run or --docker-run belongs to
// it, flags and all, which no flag parser would grant. A -- in front of them means
// that the command has begun already. inContainer says that it is docker run's.
func splitRun(args []string) (rest, command []string, inContainer bool, err error) {
	verb := slices.Index(args, "swap")
	if verb < 0 || strings.HasPrefix(args[0], "__") { // __complete must see all of it
		return args, nil, false, nil
	}
	for i := verb + 1; i < len(args); i++ {
		flag, first, joined := strings.Cut(args[i], "=")
		switch {
		case args[i] == "--":
			return args, nil, false, nil
		case flag != runFlag && flag != dockerFlag:
			continue
		case joined:
			command = append([]string{first}, args[i+1:]...)
		default:
			command = args[i+1:]
		}
		switch empty := len(command) == 0 || command[0] == ""; {
		case empty && flag == dockerFlag:
			return nil, nil, false, usage("--docker-run needs an image: %s", dockerForm)
		case empty:
			return nil, nil, false, usage("--run needs a command: teleswap swap --deployment NAME --run COMMAND ARGUMENTS…")
		}
		return args[:i], command, flag == dockerFlag, nil
	}
	return args, nil, false, nil
}
