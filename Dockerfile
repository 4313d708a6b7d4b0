# The agent's image: one static binary, nothing else, not root.
#   docker build --build-arg VERSION=v0.1.0 -t docker.io/teleswap/agent:v0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd/teleswap-agent cmd/teleswap-agent
COPY agent agent
COPY proxy proxy
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /teleswap-agent ./cmd/teleswap-agent

FROM scratch
COPY --from=build /teleswap-agent /teleswap-agent
USER 65532:65532
ENTRYPOINT ["/teleswap-agent"]
