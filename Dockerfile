# ws-daemon in a container. Mount under /usr/src/app: config.json, scripts/ and, if the scripts need more than is here
# (interpreters, packages), a setup.sh, which is run before the daemon starts.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package ws-daemon

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/ws-daemon /usr/local/bin/ws-daemon
WORKDIR /usr/src/app
ENV WSDAEMON_PREFIX=/usr/src/app WSDAEMON_LOCAL=0.0.0.0:9007
# 3006: links to a server. 9007: the local conversation; whoever reaches it may ask for runs, so publish it with care.
EXPOSE 3006 9007
# The daemon takes up to 15 s to stop: docker stop --time 20.
STOPSIGNAL SIGTERM
# setup.sh may take its time.
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD ["ws-daemon", "health"]
ENTRYPOINT ["ws-daemon", "container"]
