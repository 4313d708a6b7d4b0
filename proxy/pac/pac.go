// Package pac writes proxy auto-configuration: the JavaScript by which a browser knows what goes by a proxy and what does not
// (https://developer.mozilla.org/docs/Web/HTTP/Proxy_servers_and_tunneling/Proxy_Auto-Configuration_PAC_file). It knows names and addresses only.
package pac

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// ContentType is that of a script.
const ContentType = "application/x-ns-proxy-autoconfig"

// Rules are what goes by the proxy; all else goes as without one.
type Rules struct {
	Hosts   []string       // whole names
	Domains []string       // all names that end in one of them, after a dot
	Ranges  []netip.Prefix // addresses, where a host is one: no name is looked up
}

// Script is the file for a browser that reaches the proxy at HOST:PORT.
func Script(proxy string, r Rules) (string, error) {
	hosts, domains := map[string]bool{}, make([]string, 0, len(r.Domains))
	for _, h := range r.Hosts {
		hosts[strings.ToLower(strings.TrimSuffix(h, "."))] = true
	}
	for _, d := range r.Domains {
		domains = append(domains, "."+strings.ToLower(strings.Trim(d, ".")))
	}
	ranges := make([][]any, 0, len(r.Ranges))
	for _, p := range r.Ranges {
		ranges = append(ranges, []any{bits(p.Masked().Addr())[:p.Bits()], p.Addr().BitLen()})
	}
	var values [4]string
	for i, v := range []any{hosts, domains, ranges, "PROXY " + proxy + "; SOCKS5 " + proxy} {
		text, err := json.Marshal(v)
		if err != nil {
			return "", fmt.Errorf("write the proxy's script: %w", err)
		}
		values[i] = string(text)
	}
	return fmt.Sprintf(script, values[0], values[1], values[2], values[3]), nil
}

// bits are an address as digits of base 2, which is how the script compares it.
func bits(a netip.Addr) string {
	var out strings.Builder
	for _, b := range a.AsSlice() {
		fmt.Fprintf(&out, "%08b", b)
	}
	return out.String()
}

// script is in the language of 1999, as some who read it are.
const script = `// What is in the cluster goes by the proxy, all else as without it. Made by teleswap.
var hosts = %s;
var domains = %s;
var ranges = %s; // [first bits, length of an address]
var proxy = %s;

function digits(n, width) {
  var text = n.toString(2);
  while (text.length < width) text = "0" + text;
  return text;
}

function bits4(host) {
  var parts = host.split("."), text = "";
  if (parts.length != 4) return "";
  for (var i = 0; i < 4; i++) {
    if (!/^[0-9]{1,3}$/.test(parts[i]) || +parts[i] > 255) return "";
    text += digits(+parts[i], 8);
  }
  return text;
}

function bits6(host) {
  host = host.replace(/^\[|\]$/g, "").replace(/%%.*$/, "");
  if (!/^[0-9a-f:]*:[0-9a-f:.]*$/.test(host)) return "";
  var four = host.match(/[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$/);
  if (four) {
    var low = bits4(four[0]);
    if (!low) return "";
    host = host.substring(0, host.length - four[0].length) +
      parseInt(low.substring(0, 16), 2).toString(16) + ":" + parseInt(low.substring(16), 2).toString(16);
  }
  var halves = host.split("::");
  if (halves.length > 2) return "";
  var front = halves[0] ? halves[0].split(":") : [];
  var back = halves.length > 1 && halves[1] ? halves[1].split(":") : [];
  var missing = 8 - front.length - back.length;
  if (halves.length == 1 ? missing != 0 : missing < 1) return "";
  for (; missing > 0; missing--) front.push("0");
  var all = front.concat(back), text = "";
  for (var i = 0; i < 8; i++) {
    if (!/^[0-9a-f]{1,4}$/.test(all[i])) return "";
    text += digits(parseInt(all[i], 16), 16);
  }
  return text;
}

function FindProxyForURL(url, host) {
  host = host.toLowerCase().replace(/\.$/, "");
  if (hosts.hasOwnProperty(host)) return proxy;
  var i, address = bits4(host) || bits6(host);
  if (!address) {
    for (i = 0; i < domains.length; i++) {
      var at = host.length - domains[i].length;
      if (at > 0 && host.substring(at) == domains[i]) return proxy;
    }
    return "DIRECT";
  }
  for (i = 0; i < ranges.length; i++) {
    if (ranges[i][1] == address.length && address.substring(0, ranges[i][0].length) == ranges[i][0]) return proxy;
  }
  return "DIRECT";
}
`
