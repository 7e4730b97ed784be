# Two images of one source, both for any user but root, a read-only root and no capabilities:
#   bridge (the default)   what an organisation runs: without `embedded` and `load`
#   load                   the same binary with `load`, for docker-compose.yml's requester, worker and init
# BuildKit makes them: DOCKER_BUILDKIT=1 where the engine is older than 23.

ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-slim-bookworm AS source
WORKDIR /src
COPY . .

# The two builds share what they download and compile, one after the other.
FROM source AS build-bridge
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release --no-default-features && strip --strip-debug -o /bridge target/release/bridge

FROM source AS build-load
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release --no-default-features --features load && strip --strip-debug -o /bridge target/release/bridge

FROM debian:bookworm-slim AS runtime
LABEL org.opencontainers.image.title="pulsar-bridge" \
      org.opencontainers.image.description="Joins two organisations' Apache Pulsar clusters through a link that only one of them may dial" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/doc/pulsar-bridge/LICENSE
# A number, so that Kubernetes can see that it is not root. Secrets have to belong to it, with mode 0600.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/bridge"]
CMD ["run", "--config", "/etc/bridge/bridge.json"]

FROM runtime AS load
USER root
# A named volume that is still empty takes over owner and mode of the folder that it covers.
RUN install -d -o 10001 -g 10001 -m 0700 /made/hub /made/bank /made/offline
USER 10001:10001
COPY --from=build-load /bridge /usr/local/bin/bridge

FROM runtime AS bridge
COPY --from=build-bridge /bridge /usr/local/bin/bridge
