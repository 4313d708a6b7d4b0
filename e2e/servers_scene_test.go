package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// restrictedContext is what the Pod Security Standard "restricted" asks of a container.
const restrictedContext = `{allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}`

// serversScene is third-party servers from Debian's packages as they come, each with its Service,
// a probe that nginx proxies to, and a worker that uses them all: the target.
var serversScene = `
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {PGPASSWORD: "` + secretWord + `"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: servers}
data:
  postgres: |
    set -e
    initdb -D /data/pg -U postgres --no-locale -E UTF8 -N --auth=scram-sha-256 --pwfile=/dev/stdin <<END
    $PGPASSWORD
    END
    echo 'host all all all scram-sha-256' >>/data/pg/pg_hba.conf
    exec postgres -D /data/pg -c listen_addresses=* -c unix_socket_directories=/tmp -c fsync=off
  git: |
    set -e
    export HOME=/data
    git init -q -b main /data/repo
    cd /data/repo
    echo 'hello from git' >README
    git add README
    git -c user.name=x -c user.email=x@example.com commit -q -m 'the first'
    exec git daemon --export-all --reuseaddr --base-path=/data --port=9418
  nginx.conf: |
    daemon off;
    pid /tmp/nginx.pid;
    events {}
    http {
      access_log off;
      client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
      ssl_certificate /tls/tls.crt;
      ssl_certificate_key /tls/tls.key;
      server {
        listen 8080;
        listen 8081 http2;
        listen 8443 ssl http2;
        location / { return 200 "$server_protocol by nginx, asked by $remote_addr\n"; }
        location /bytes { proxy_pass http://backend:5100; }
        location /ws {
          proxy_pass http://backend:5100;
          proxy_http_version 1.1;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection upgrade;
        }
      }
    }
---
{SERVER postgres 5432 args: [-c, "exec sh /etc/servers/postgres"]}
---
{SERVER redis 6379 args: [-c, "exec redis-server --port 6379 --protected-mode no --save '' --dir /data"]}
---
{SERVER git 9418 args: [-c, "exec sh /etc/servers/git"]}
---
{SERVER nginx 8080 args: [-c, "exec nginx -e stderr -c /etc/servers/nginx.conf"]}
---
{SERVER mail 2525 args: [-c, "exec msmtpd --interface=0.0.0.0 --port=2525 --log=none --command='cat >>/data/mail; true'"]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: nginx}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: h2c, port: 81, targetPort: 8081}, {name: https, port: 443, targetPort: 8443}]
---
` + probeDeployment("backend", `
        args: [-listen, ":5100", -grpc, ":5200", -name, backend]
        readinessProbe: {httpGet: {path: /self, port: 5100}, periodSeconds: 1}`) + `
---
apiVersion: v1
kind: Service
metadata: {name: backend}
spec:
  selector: {app: backend}
  ports: [{name: http, port: 5100}, {name: grpc, port: 5200}]
---
` + probeDeployment("worker", `
        args: [-sleep]
        env: [{name: PGHOST, value: postgres}, {name: PGUSER, value: postgres}, {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
        envFrom: [{secretRef: {name: db}}]`)

// serverTemplate is a Deployment of the image of servers and its Service.
const serverTemplate = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, labels: {app: NAME}}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers:
      - name: app
        image: SERVERS
        imagePullPolicy: IfNotPresent
        ARGS
        envFrom: [{secretRef: {name: db}}]
        readinessProbe: {tcpSocket: {port: PORT}, periodSeconds: 1}
        securityContext: RESTRICTED
        volumeMounts: [{name: data, mountPath: /data}, {name: servers, mountPath: /etc/servers}, {name: tls, mountPath: /tls}]
      volumes:
      - {name: data, emptyDir: {}}
      - {name: servers, configMap: {name: servers}}
      - {name: tls, secret: {secretName: web}}
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  selector: {app: NAME}
  ports: [{port: PORT}]
`

// serversYAML fills in the templates.
func serversYAML() string {
	var docs []string
	for doc := range strings.SplitSeq(serversScene, "---\n") {
		line, isServer := strings.CutPrefix(strings.TrimSpace(doc), "{SERVER ")
		if isServer {
			parts := strings.SplitN(strings.TrimSuffix(line, "}"), " ", 3)
			doc = strings.NewReplacer("NAME", parts[0], "PORT", parts[1], "ARGS", parts[2]).Replace(serverTemplate)
		}
		docs = append(docs, strings.ReplaceAll(doc, "RESTRICTED", restrictedContext))
	}
	return strings.Join(docs, "---\n")
}

// tlsSecret is a Secret of type kubernetes.io/tls with a certificate for the names, signed by itself;
// certificate is in it and returned.
func tlsSecret(t *testing.T, name string, hosts ...string) (yaml, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	private := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	indent := func(text string) string {
		return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
	}
	yaml = "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: " + name + "}\nstringData:\n" +
		"  tls.crt: |\n" + indent(certificate) + "  tls.key: |\n" + indent(private)
	return yaml, certificate
}
