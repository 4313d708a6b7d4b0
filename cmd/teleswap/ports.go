package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// expose is a port of the target: what comes to remote in the cluster goes to the process's local.
type expose struct {
	local, remote uint16
	udp           bool
}

// String is the form in which it may be written, with both ports.
func (e expose) String() string { return fmt.Sprintf("%d:%d%s", e.local, e.remote, udpSuffix(e.udp)) }

// publish is a port of the process, inside, that is reached at an address and port of the laptop. Port 0: any that
// is free.
type publish struct {
	addr         netip.Addr
	port, inside uint16
	udp          bool
}

func (p publish) String() string {
	return fmt.Sprintf("%s:%d%s", netip.AddrPortFrom(p.addr, p.port), p.inside, udpSuffix(p.udp))
}

// portNumber is a port of the pod's loopback address.
type portNumber struct {
	number uint16
	udp    bool
}

func (p portNumber) String() string { return strconv.Itoa(int(p.number)) + udpSuffix(p.udp) }

func udpSuffix(udp bool) string {
	if udp {
		return "/udp"
	}
	return ""
}

// How the flags' values are written.
const (
	exposeForm  = "it is written LOCAL[:REMOTE][/udp], for example 8080:80"
	publishForm = "it is written [ADDRESS:]PORT[:INSIDE][/udp], for example 8080 or 127.0.0.1:9000:8080"
	numberForm  = "it is written PORT[/udp], for example 9901"
)

// parseExpose reads LOCAL[:REMOTE][/udp]: the process listens on LOCAL, the cluster calls REMOTE, which is LOCAL
// if left away. Its errors are for a message that names the flag and the text.
func parseExpose(text string) (expose, error) {
	ports, udp, err := cutProtocol(text, exposeForm)
	if err != nil {
		return expose{}, err
	}
	localText, remoteText, both := strings.Cut(ports, ":")
	e := expose{udp: udp}
	if e.local, err = parsePort(localText, exposeForm); err != nil {
		return expose{}, err
	}
	e.remote = e.local
	if both {
		e.remote, err = parsePort(remoteText, exposeForm)
	}
	return e, err
}

// parsePublish reads [ADDRESS:]PORT[:INSIDE][/udp]: the process's port INSIDE is at the laptop's ADDRESS and PORT.
// ADDRESS is 127.0.0.1 if left away, INSIDE is PORT; an address of IPv6 stands in brackets. Its errors are as
// parseExpose's.
func parsePublish(text string) (publish, error) {
	rest, udp, err := cutProtocol(text, publishForm)
	if err != nil {
		return publish{}, err
	}
	p := publish{addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), udp: udp}
	if addr, ports, given := cutAddress(rest); given {
		if p.addr, err = parseAddress(addr); err != nil {
			return publish{}, err
		}
		rest = ports
	}
	portText, insideText, both := strings.Cut(rest, ":")
	if portText == "0" {
		if !both {
			return publish{}, errors.New("port 0 means any port of this machine; write 0:INSIDE, INSIDE being the process's port")
		}
	} else if p.port, err = parsePort(portText, publishForm); err != nil {
		return publish{}, err
	}
	p.inside = p.port
	if both {
		p.inside, err = parsePort(insideText, publishForm)
	}
	return p, err
}

// cutAddress takes an address off the front of what is published: something in brackets, or the first of three parts,
// or of two where it is no number.
func cutAddress(text string) (addr, rest string, given bool) {
	if strings.HasPrefix(text, "[") {
		addr, rest, given = strings.Cut(text[1:], "]:")
		return addr, rest, given
	}
	first, after, more := strings.Cut(text, ":")
	if !more {
		return "", text, false
	}
	_, err := strconv.Atoi(first)
	if strings.Contains(after, ":") || err != nil {
		return first, after, true
	}
	return "", text, false
}

func parseAddress(text string) (netip.Addr, error) {
	switch text {
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	case "":
		return netip.Addr{}, errors.New("there is no address before the colon; one of IPv6 stands in brackets, for example [::1]:8080")
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is no address; %s", text, publishForm)
	}
	return addr.Unmap(), nil
}

// parseNumber reads PORT[/udp]. Its errors are as parseExpose's.
func parseNumber(text string) (portNumber, error) {
	number, udp, err := cutProtocol(text, numberForm)
	if err != nil {
		return portNumber{}, err
	}
	p := portNumber{udp: udp}
	p.number, err = parsePort(number, numberForm)
	return p, err
}

// cutProtocol takes /udp or /tcp off the end.
func cutProtocol(text, form string) (rest string, udp bool, err error) {
	rest, protocol, given := strings.Cut(text, "/")
	switch {
	case !given, protocol == "tcp":
		return rest, false, nil
	case protocol == "udp":
		return rest, true, nil
	}
	return "", false, fmt.Errorf("protocol %q is not carried, TCP and UDP are; %s", protocol, form)
}

// parsePort reads a port's number.
func parsePort(text, form string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n == 0:
		return 0, fmt.Errorf("there is no port %s, they are 1 to 65535; %s", text, form)
	case err != nil:
		return 0, fmt.Errorf("%q is no port number; %s", text, form)
	}
	return uint16(n), nil
}

// parseExposes reads the values of --expose. Each port of the cluster's side may be given once.
func parseExposes(texts []string) ([]expose, error) {
	return parseEach("--expose", texts, parseExpose, func(e expose) (key, what string) {
		port := portNumber{e.remote, e.udp}.String()
		return port, "the target's port " + port
	})
}

// parsePublishes reads the values of --publish. Each address and port of the laptop may be given once.
func parsePublishes(texts []string) ([]publish, error) {
	return parseEach("--publish", texts, parsePublish, func(p publish) (key, what string) {
		if p.port == 0 {
			return "", ""
		}
		at := netip.AddrPortFrom(p.addr, p.port).String() + udpSuffix(p.udp)
		return at, "this machine's " + at
	})
}

// parseNumbers reads the values of a flag that names ports of the pod's loopback address.
func parseNumbers(flag string, texts []string) ([]portNumber, error) {
	return parseEach(flag, texts, parseNumber, func(p portNumber) (key, what string) { return p.String(), "port " + p.String() })
}

// parseEach reads the values of a flag that may be repeated, each one or several with commas. Two with the same key are refused; an empty key is nobody's.
func parseEach[P any](flag string, texts []string, parse func(string) (P, error), name func(P) (key, what string)) ([]P, error) {
	var all []P
	first := map[string]string{}
	var each []string
	for _, list := range texts {
		each = append(each, strings.Split(list, ",")...)
	}
	for _, text := range each {
		p, err := parse(text)
		if err != nil {
			return nil, usage("%s %s: %v", flag, orQuotes(text), err)
		}
		key, what := name(p)
		if before, twice := first[key]; twice && key != "" {
			return nil, usage("%s is given twice, by %s %s and %s %s; leave one of them out", what, flag, before, flag, text)
		}
		first[key] = text
		all = append(all, p)
	}
	return all, nil
}

// orQuotes shows a text that would not be seen.
func orQuotes(text string) string {
	if strings.TrimSpace(text) == "" {
		return strconv.Quote(text)
	}
	return text
}
