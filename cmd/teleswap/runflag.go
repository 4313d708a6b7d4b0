package main

import (
	"slices"
	"strings"
)

const (
	runFlag    = "--run"
	dockerFlag = "--docker-run"
)

// example is how a verb is called, up to its command.
var example = map[string]string{"swap": "swap NAME", "connect": "connect"}

// splitRun takes the command off the arguments of a swap or a connect: everything after --run or --docker-run belongs to
// it, flags and all, which no flag parser would grant. A -- in front of them means
// that the command has begun already. inContainer says that it is docker run's.
func splitRun(args []string) (rest, command []string, inContainer bool, err error) {
	verb := slices.IndexFunc(args, func(word string) bool { return word == "swap" || word == "connect" })
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
			return nil, nil, false, usage("--docker-run needs an image: teleswap %s --docker-run [docker's flags] IMAGE [ARGUMENTS…]", example[args[verb]])
		case empty:
			return nil, nil, false, usage("--run needs a command: teleswap %s --run COMMAND ARGUMENTS…", example[args[verb]])
		}
		return args[:i], command, flag == dockerFlag, nil
	}
	return args, nil, false, nil
}
