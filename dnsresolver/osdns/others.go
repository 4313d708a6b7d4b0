package osdns

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf16"
)

// networkManagerFile is read by NetworkManager before its own settings, and gone after a reboot (NetworkManager.conf(5)).
const networkManagerFile = "/run/NetworkManager/conf.d/90-teleswap.conf"

// formerOf are the nameservers that are asked now.
func formerOf(fx Effects) []netip.Addr {
	content, err := fx.ReadFile(fx.Path)
	if err != nil {
		return nil
	}
	return nameservers(content)
}

// networkManagerConf sets nameservers for all names: ours, then the former ones.
func networkManagerConf(c Change, former []netip.Addr) []byte {
	servers := []string{c.Server.String()}
	for _, a := range former {
		servers = append(servers, a.String())
	}
	var b bytes.Buffer
	b.WriteString("# Teleswap is connected; `teleswap disconnect` removes this file.\n[global-dns]\noptions=timeout:1\n")
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "searches=%s\n", strings.Join(c.Search, ","))
	}
	fmt.Fprintf(&b, "\n[global-dns-domain-*]\nservers=%s\n", strings.Join(servers, ","))
	return b.Bytes()
}

// recordName is that of our record in resolvconf: of Debian's it is sorted before all network cards, as a TUN's.
func recordName(device string) string { return "tun-" + device + ".inet" }

// resolvconfRecord is what resolvconf(8) reads. Debian's cuts the list of nameservers behind an IPv4 loopback address, as it
// takes that for a cache that forwards; in the form for IPv6 sockets the address is the same, and the former ones stay.
func resolvconfRecord(c Change) []byte {
	server := c.Server
	if server.Is4() {
		server = netip.AddrFrom16(server.As16())
	}
	text := fmt.Sprintf("nameserver %v\n", server)
	if len(c.Search) > 0 {
		text += "search " + strings.Join(c.Search, " ") + "\n"
	}
	return []byte(text + options + "\n")
}

// resolverDir holds one file for each domain with nameservers of its own (macOS, resolver(5)).
const resolverDir = "/etc/resolver/"

// resolverFiles are those files. Names of one label are completed by the search domains of the first.
func resolverFiles(c Change) map[string][]byte {
	files := map[string][]byte{}
	for _, domain := range append(slices.Clone(c.Search), c.Domains...) {
		files[resolverDir+domain] = fmt.Appendf(nil, "# Teleswap is connected; `teleswap disconnect` removes this file.\ndomain %s\nnameserver %v\n", domain, c.Server)
	}
	if len(c.Search) > 0 {
		files[resolverDir+"teleswap.search"] = fmt.Appendf(nil, "# Teleswap is connected; `teleswap disconnect` removes this file.\nsearch %s\nnameserver %v\n",
			strings.Join(c.Search, " "), c.Server)
	}
	return files
}

// rulePrefix begins the names of our rules in Windows' name resolution policy table.
const rulePrefix = "teleswap-"

func ruleNames(c Change) []string {
	var names []string
	for _, domain := range append(slices.Clone(c.Search), c.Domains...) {
		names = append(names, rulePrefix+domain)
	}
	return names
}

// addRules adds a rule for each domain (Add-DnsClientNrptRule). A rule is told from others by its DisplayName.
func addRules(ctx context.Context, fx Effects, c Change) error {
	for i, domain := range append(slices.Clone(c.Search), c.Domains...) {
		name := ruleNames(c)[i]
		script := fmt.Sprintf("Add-DnsClientNrptRule -Namespace '.%s' -NameServers '%v' -DisplayName '%s'", domain, c.Server, name)
		if err := powershell(ctx, fx, script); err != nil {
			return err
		}
	}
	return powershell(ctx, fx, "Clear-DnsClientCache")
}

// removeRules removes rules; one that is not there is no error.
func removeRules(ctx context.Context, fx Effects, names []string) error {
	var errs []error
	for _, name := range names {
		if !strings.HasPrefix(name, rulePrefix) || checkDomain(name) != nil {
			errs = append(errs, fmt.Errorf("rule %q is not ours", name))
			continue
		}
		errs = append(errs, powershell(ctx, fx,
			fmt.Sprintf("Get-DnsClientNrptRule | Where-Object DisplayName -eq '%s' | Remove-DnsClientNrptRule -Force", name)))
	}
	return errors.Join(append(errs, powershell(ctx, fx, "Clear-DnsClientCache"))...)
}

// powershell runs a script. It is handed over encoded (UTF-16, then base 64), so no shell on the way reads it.
func powershell(ctx context.Context, fx Effects, script string) error {
	var wide []byte
	for _, u := range utf16.Encode([]rune("$ErrorActionPreference = 'Stop'; " + script)) {
		wide = binary.LittleEndian.AppendUint16(wide, u)
	}
	return fx.Run(ctx, nil, "powershell.exe", "-NoProfile", "-NonInteractive", "-EncodedCommand", base64.StdEncoding.EncodeToString(wide))
}
