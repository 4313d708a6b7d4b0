//go:build linux

package node

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// first lists what the node starts at once. The programs find each other by
// trying again, as on any node: the order only saves time.
func (c *Config) first() []program {
	runtime := program{name: "containerd", argv: []string{BinDir + "/containerd", "--config", EtcDir + "/containerd.toml"}}
	if c.Index > 0 {
		return []program{runtime}
	}
	return []program{
		kube("etcd", "etcd",
			"--name=node", "--data-dir=/var/lib/etcd",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=node=http://127.0.0.1:2380",
			// A cluster that is thrown away need not survive a power cut.
			"--unsafe-no-fsync", "--log-level=warn",
		),
		runtime,
		c.apiServer(),
		{
			name:  "relay",
			argv:  []string{"/proc/self/exe", RelayArg, "127.0.0.1:" + strconv.Itoa(c.HostPort), c.IP + ":" + strconv.Itoa(APIPort)},
			extra: []*os.File{os.NewFile(uintptr(c.HostNetFD), "machine's network namespace")},
		},
	}
}

// second lists the API server's clients.
func (c *Config) second() []program {
	all := []program{
		kube("kubelet", "kubelet",
			"--config="+EtcDir+"/kubelet.yaml", "--kubeconfig="+EtcDir+"/kubelet.kubeconfig",
			"--hostname-override="+c.Name, "--node-ip="+c.IP+","+c.IP6,
		),
		kube("kube-proxy", "kube-proxy",
			"--kubeconfig="+EtcDir+"/kube-proxy.kubeconfig", "--hostname-override="+c.Name,
			"--proxy-mode=nftables", "--cluster-cidr="+ClusterCIDR+","+ClusterCIDR6,
			// The limit belongs to the whole machine, and is not ours to raise.
			"--conntrack-max-per-core=0",
		),
		{name: "network-policy", argv: []string{"/proc/self/exe", PolicyArg, c.server()}},
	}
	if c.Index > 0 {
		return all
	}
	return append(all,
		kube("controller-manager", "kube-controller-manager",
			"--kubeconfig="+EtcDir+"/controller-manager.kubeconfig",
			"--authentication-kubeconfig="+EtcDir+"/controller-manager.kubeconfig",
			"--authorization-kubeconfig="+EtcDir+"/controller-manager.kubeconfig",
			"--bind-address=127.0.0.1", "--leader-elect=false",
			"--allocate-node-cidrs", "--cluster-cidr="+ClusterCIDR+","+ClusterCIDR6, "--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64",
			"--service-cluster-ip-range="+ServiceCIDR+","+ServiceCIDR6,
			"--root-ca-file="+EtcDir+"/ca.crt",
			"--cluster-signing-cert-file="+EtcDir+"/ca.crt", "--cluster-signing-key-file="+EtcDir+"/ca.key",
			"--service-account-private-key-file="+EtcDir+"/sa.key", "--use-service-account-credentials",
			"--flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins",
			// At its start it asks for some hundred tokens; the default of 20 a
			// second would make every cluster wait for that.
			"--kube-api-qps=200", "--kube-api-burst=400",
		),
		kube("scheduler", "kube-scheduler",
			"--kubeconfig="+EtcDir+"/scheduler.kubeconfig",
			"--authentication-kubeconfig="+EtcDir+"/scheduler.kubeconfig",
			"--authorization-kubeconfig="+EtcDir+"/scheduler.kubeconfig",
			"--bind-address=127.0.0.1", "--leader-elect=false",
		),
	)
}

func (c *Config) apiServer() program {
	return kube("apiserver", "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+c.IP, "--bind-address=0.0.0.0", "--secure-port="+strconv.Itoa(APIPort),
		"--service-cluster-ip-range="+ServiceCIDR+","+ServiceCIDR6,
		"--client-ca-file="+EtcDir+"/ca.crt",
		"--tls-cert-file="+EtcDir+"/apiserver.crt", "--tls-private-key-file="+EtcDir+"/apiserver.key",
		"--kubelet-client-certificate="+EtcDir+"/apiserver-kubelet.crt", "--kubelet-client-key="+EtcDir+"/apiserver-kubelet.key",
		"--kubelet-certificate-authority="+EtcDir+"/ca.crt",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc."+DNSDomain,
		"--service-account-key-file="+EtcDir+"/sa.pub", "--service-account-signing-key-file="+EtcDir+"/sa.key",
		"--requestheader-client-ca-file="+EtcDir+"/front-proxy-ca.crt", "--requestheader-allowed-names="+frontProxy,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+EtcDir+"/front-proxy-client.crt", "--proxy-client-key-file="+EtcDir+"/front-proxy-client.key",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged",
	)
}

// frontProxy is whom the API server speaks as to API servers behind it.
const frontProxy = "front-proxy-client"

func kube(name, command string, args ...string) program {
	return program{name: name, argv: append([]string{BinDir + "/kube", command}, args...)}
}

// settle has the node's addresses usable from the moment on that they are given, as
// manifests/settled.sh has the pods': these are the other ends of the same wires.
func settle() error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
		return fmt.Errorf("set up IPv6: %w", err)
	}
	return nil
}

// closeWay drops what the laptop sends to pods and Services: in life a laptop can
// reach the API server and what nodes offer at their own address (node ports),
// but no address of the cluster's inside, even if it knows the way. The chain
// comes before kube-proxy's, which turns the one into the other.
func closeWay() error {
	rules := `table inet teleswap_node {
	chain from_laptop {
		type filter hook prerouting priority -200; policy accept;
		iifname "` + LaptopLink + `" ip daddr { ` + ServiceCIDR + `, ` + ClusterCIDR + ` } drop
		iifname "` + LaptopLink + `" ip6 daddr { ` + ServiceCIDR6 + `, ` + ClusterCIDR6 + ` } drop
	}
}
`
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: keep the laptop from the pods: %w: %s", err, out)
	}
	return nil
}

// LaptopLink is the node's interface on the way to the laptop.
const LaptopLink = "eth0"
