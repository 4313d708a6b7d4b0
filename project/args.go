package project

// Args is the session as words after the program's name: swap, its flags, and the command. first are further flags. The values of Env are
// not among them, since a command line is everybody's to read: who starts the command tells it by other ways.
func (s Session) Args(first ...string) []string {
	args := append([]string{"swap"}, first...)
	flag := func(name, value string) {
		if value != "" {
			args = append(args, "--"+name+"="+value)
		}
	}
	each := func(name string, values []string) {
		for _, v := range values {
			flag(name, v)
		}
	}
	yes := func(name string, value bool) {
		if value {
			args = append(args, "--"+name)
		}
	}
	flag("context", s.Context)
	flag("namespace", s.Namespace)
	each("expose", s.Expose)
	each("publish", s.Publish)
	each("to-pod", s.ToPod)
	each("from-pod", s.FromPod)
	each("env-file", s.EnvFile)
	each("env-include", s.EnvInclude)
	each("env-exclude", s.EnvExclude)
	flag("env-json", s.EnvJSON)
	flag("node", s.Node)
	flag("order", s.Order)
	yes("skip-init", s.SkipInit)
	yes("lifecycle-hooks", s.LifecycleHooks)
	yes("no-pod-logs", s.NoPodLogs)
	flag("mount", s.Mount)
	yes("no-sandbox", s.NoSandbox)
	flag("agent-image", s.AgentImage)
	flag("agent-pull-policy", s.AgentPullPolicy)
	args = append(args, s.Flags...)
	if s.New {
		flag("new", s.Target.Text)
	} else {
		args = append(args, s.Target.Text)
	}
	switch {
	case s.Image != "":
		args = append(append(args, "--docker-run"), s.Docker...)
		args = append(append(args, s.Image), s.Command...)
	case len(s.Command) > 0:
		args = append(append(args, "--"), s.Command...)
	}
	return args
}
