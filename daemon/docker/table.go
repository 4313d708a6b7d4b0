package docker

// letters are the flags of docker run with a single letter.
var letters = map[string]string{
	"a": "attach", "c": "cpu-shares", "d": "detach", "e": "env", "h": "hostname", "i": "interactive", "l": "label",
	"m": "memory", "p": "publish", "P": "publish-all", "q": "quiet", "t": "tty", "u": "user", "v": "volume", "w": "workdir",
}

// switches are those that take no value: from Docker's reference of docker run, up to version 28.
var switches = set(
	"detach", "disable-content-trust", "help", "init", "interactive", "no-healthcheck", "oom-kill-disable", "privileged",
	"publish-all", "quiet", "read-only", "rm", "sig-proxy", "tty", "use-api-socket",
)

// valued are all others, the old names among them.
var valued = set(
	"add-host", "annotation", "attach", "blkio-weight", "blkio-weight-device", "cap-add", "cap-drop", "cgroup-parent",
	"cgroupns", "cidfile", "cpu-count", "cpu-percent", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime",
	"cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "detach-keys", "device", "device-cgroup-rule", "device-read-bps",
	"device-read-iops", "device-write-bps", "device-write-iops", "dns", "dns-opt", "dns-option", "dns-search", "domainname",
	"entrypoint", "env", "env-file", "expose", "gpus", "group-add", "health-cmd", "health-interval", "health-retries",
	"health-start-interval", "health-start-period", "health-timeout", "hostname", "io-maxbandwidth", "io-maxiops", "ip",
	"ip6", "ipc", "isolation", "kernel-memory", "label", "label-file", "link", "link-local-ip", "log-driver", "log-opt",
	"mac-address", "memory", "memory-reservation", "memory-swap", "memory-swappiness", "mount", "name", "net", "net-alias",
	"network", "network-alias", "oom-score-adj", "pid", "pids-limit", "platform", "publish", "pull", "restart", "runtime",
	"security-opt", "shm-size", "stop-signal", "stop-timeout", "storage-opt", "sysctl", "tmpfs", "ulimit", "user", "userns",
	"uts", "volume", "volume-driver", "volumes-from", "workdir",
)

// attaching are the flags that say how docker's client follows a container. docker create has none of them.
var attaching = set("detach-keys", "sig-proxy")

const (
	podNetwork = "the container is in the pod's network, at the pod's addresses"
	podNames   = "the container looks names up as the pod does"
	podName    = "the container has the pod's hostname"
	ownPublish = "teleswap's own makes a port of it reachable at 127.0.0.1; write it in front: teleswap swap NAME --publish PORT --docker-run …"
)

// refused are the flags that contradict the container's being the pod, with what to do.
var refused = map[string]string{
	"publish":       podNetwork + "; " + ownPublish,
	"publish-all":   podNetwork + "; " + ownPublish,
	"expose":        podNetwork + "; teleswap's own --expose says which further ports it serves; write it in front: teleswap swap NAME --expose PORT --docker-run …",
	"network":       podNetwork + "; leave it away",
	"net":           podNetwork + "; leave it away",
	"network-alias": podNetwork + "; its Services are its names",
	"net-alias":     podNetwork + "; its Services are its names",
	"ip":            podNetwork + "; leave it away",
	"ip6":           podNetwork + "; leave it away",
	"link":          podNetwork + "; it reaches the laptop as host.teleswap.internal",
	"link-local-ip": podNetwork + "; leave it away",
	"mac-address":   podNetwork + "; leave it away",
	"hostname":      podName + "; leave it away",
	"domainname":    podName + "; leave it away",
	"dns":           podNames + "; leave it away",
	"dns-opt":       podNames + "; leave it away",
	"dns-option":    podNames + "; leave it away",
	"dns-search":    podNames + "; leave it away",
	"add-host":      podNames + "; leave it away",
	"detach":        "the swap lasts as long as the container runs; teleswap's own -d gives the terminal back: teleswap swap NAME -d --docker-run …",
	"restart":       "the swap ends when the container does; leave it away",
	"help":          "see `docker run --help`",
}

func set(names ...string) map[string]struct{} {
	all := make(map[string]struct{}, len(names))
	for _, n := range names {
		all[n] = struct{}{}
	}
	return all
}
