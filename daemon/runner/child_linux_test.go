package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// childMain plays the user's command in the sandbox: it prints what it sees to stdout, a line each.
func childMain(args []string) int {
	do, args := args[0], args[1:]
	switch do {
	case "dial": // each ADDRESS: its errno, or what it answers to "ping"
		for _, addr := range args {
			fmt.Println(childDial(addr))
		}
	case "many": // N connections to ADDRESS at once
		return childMany(args[0], args[1])
	case "serve": // listens on each ADDRESS; tells each client's address and echoes
		return childServe(args)
	case "measure":
		return childMeasure(args[0])
	case "benchserve":
		return childBenchServe(args[0])
	case "lookup":
		ips, err := net.DefaultResolver.LookupHost(context.Background(), args[0])
		fmt.Println(strings.Join(ips, " "), err)
	case "udp": // each ADDRESS: its errno, or what it answers to "ping"
		for _, addr := range args {
			fmt.Println(childUDP(addr))
		}
	case "serveudp": // waits for datagrams at each ADDRESS; answers with the client's address and the datagram
		return childServeUDP(args)
	case "ping": // each ADDRESS: its errno, or "reply"
		for _, addr := range args {
			fmt.Println(childPing(addr))
		}
	case "show":
		childShow()
	case "exit":
		n, _ := strconv.Atoi(args[0])
		return n
	case "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "signals":
		return childSignals()
	case "family":
		return childFamily(args)
	case "sleep":
		fmt.Println("sleeping", os.Getpid())
		time.Sleep(time.Hour)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		fmt.Println("stubborn", os.Getpid())
		time.Sleep(time.Hour)
	}
	return 0
}

func errnoName(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}

func childDial(addr string) string {
	c, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		return errnoName(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		return errnoName(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return errnoName(err)
	}
	return strings.TrimSpace(line)
}

func childUDP(addr string) string {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return errnoName(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("ping")); err != nil {
		return errnoName(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if err != nil {
		return errnoName(err)
	}
	return string(buf[:n])
}

func childServeUDP(addrs []string) int {
	for _, addr := range addrs {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(append([]byte(from.String()+" "), buf[:n]...), from)
			}
		}()
	}
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// childPing pings without privileges, as ping(8) does where it may.
func childPing(addr string) string {
	dst := net.ParseIP(addr)
	network, proto, request := "udp4", 1, icmp.Type(ipv4.ICMPTypeEcho)
	if dst.To4() == nil {
		network, proto, request = "udp6", 58, ipv6.ICMPTypeEchoRequest
	}
	c, err := icmp.ListenPacket(network, "")
	if err != nil {
		return errnoName(err)
	}
	defer func() { _ = c.Close() }()
	m := icmp.Message{Type: request, Body: &icmp.Echo{Seq: 1, Data: []byte("hello")}}
	b, err := m.Marshal(nil)
	if err != nil {
		return err.Error()
	}
	if _, err = c.WriteTo(b, &net.UDPAddr{IP: dst}); err != nil {
		return errnoName(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 1500)
	n, _, err := c.ReadFrom(buf)
	if err != nil {
		return errnoName(err)
	}
	reply, err := icmp.ParseMessage(proto, buf[:n])
	if echo, ok := reply.Body.(*icmp.Echo); err == nil && ok && string(echo.Data) == "hello" {
		return "reply"
	}
	return fmt.Sprintf("%x", buf[:n])
}

func childMany(count, addr string) int {
	n, _ := strconv.Atoi(count)
	var ready, done sync.WaitGroup
	var mu sync.Mutex
	failed := map[string]int{}
	start := make(chan struct{})
	for range n {
		ready.Add(1)
		done.Go(func() {
			c, err := net.DialTimeout("tcp", addr, 20*time.Second)
			ready.Done()
			if err == nil {
				defer func() { _ = c.Close() }()
				<-start // all are open now
				_, err = io.WriteString(c, "ping\n")
			}
			if err == nil {
				_, err = bufio.NewReader(c).ReadString('\n')
			}
			if err != nil {
				mu.Lock()
				failed[errnoName(err)]++
				mu.Unlock()
			}
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	fmt.Println(n, "failed", failed)
	return len(failed)
}

func childServe(addrs []string) int {
	for _, addr := range addrs {
		lis, err := net.Listen("tcp", addr)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go func() {
			for {
				c, err := lis.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					fmt.Fprintf(c, "%v\n", c.RemoteAddr())
					_, _ = io.Copy(c, c)
				}()
			}
		}()
	}
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func childShow() {
	host, _ := os.Hostname()
	resolv, _ := os.ReadFile("/etc/resolv.conf")
	hosts, _ := os.ReadFile("/etc/hosts")
	status, _ := os.ReadFile("/proc/self/status")
	fmt.Printf("hostname=%s\n", host)
	fmt.Printf("resolv=%q\n", resolv)
	fmt.Printf("hosts=%q\n", hosts)
	fmt.Printf("uid=%d gid=%d\n", os.Getuid(), os.Getgid())
	fmt.Printf("env=%s\n", os.Getenv("GREETING"))
	dir, _ := os.Getwd()
	fmt.Printf("dir=%s\n", dir)
	fmt.Printf("pgrp=%d\n", unix.Getpgrp())
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Cap") {
			fmt.Println(strings.Join(strings.Fields(line), ""))
		}
	}
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		addrs, _ := i.Addrs()
		fmt.Printf("interface=%s %d %v\n", i.Name, i.MTU, addrs)
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		link, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if n, _ := strconv.Atoi(fd.Name()); n > 2 && (strings.Contains(link, "tun") || strings.Contains(link, "socket") || strings.Contains(link, "net:")) {
			fmt.Printf("leaked=%s\n", link)
		}
	}
}

func childSignals() int {
	got := make(chan os.Signal, 16)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	fmt.Println("ready", os.Getpid())
	for s := range got {
		fmt.Println(s)
		if s == syscall.SIGTERM {
			break
		}
	}
	return 7
}

// childFamily starts a grandchild that left the session, and one that lost its parent, tells their pids, and stays or
// goes.
func childFamily(args []string) int {
	what := "sleep"
	if len(args) > 1 {
		what = args[1]
	}
	for range 2 {
		// A shell in between that ends at once: the grandchild is an orphan.
		cmd := exec.Command("/bin/sh", "-c", `"$0" `+childArg+` `+what+` & wait $! & sleep 0.1`, os.Args[0])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Stdout = os.Stdout
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("family")
	if args[0] == "stay" {
		time.Sleep(time.Hour)
	}
	return 3
}
