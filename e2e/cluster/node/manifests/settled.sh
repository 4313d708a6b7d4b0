#!/bin/sh
# A network plugin (https://www.cni.dev/docs/spec/) that comes before the one that makes a pod's interface: no
# other is on a pod's wire, so to ask whether one has its IPv6 address already (RFC 4862, 5.4: up to 2 seconds,
# which the next plugin waits for) is a waste. There is no other way to say so before the interface is there.
case $CNI_COMMAND in
ADD)
	nsenter --net="$CNI_NETNS" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad' || exit 1
	echo '{"cniVersion": "1.0.0"}'
	;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
esac
