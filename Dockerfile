# pgseal and the PostgreSQL clients that it runs: pg_dump and pg_restore of every major from 15 on.
#
#   docker build -t pgseal .
#   docker run --rm --read-only --tmpfs /tmp --env-file pgseal.env pgseal doctor
#
# It runs as nobody special and writes to /tmp and BACKUP_SPOOL_DIR alone.

FROM rust:1.95-slim-trixie AS build
WORKDIR /src
COPY . .
# The registry and the target folder outlive a build, because building sequoia and the S3 client takes minutes.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin pgseal && \
    install -D target/release/pgseal /out/pgseal

FROM debian:trixie-slim
LABEL org.opencontainers.image.title="pgseal" \
      org.opencontainers.image.description="PostgreSQL backup and restore: sealed, verified, and restorable with stock tools" \
      org.opencontainers.image.licenses="Apache-2.0"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# PostgreSQL's own packages have every major; postgresql-common brings their key and the script that names them to apt. The
# versions are left to the base on purpose: the newest minor release is the one to have. A client newer than 18 is
# installed as soon as there is one.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends ca-certificates postgresql-common && \
    /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y && \
    apt-get install -y --no-install-recommends \
        postgresql-client-15 postgresql-client-16 postgresql-client-17 postgresql-client-18 && \
    if apt-cache show postgresql-client-19 >/dev/null 2>&1; then \
        apt-get install -y --no-install-recommends postgresql-client-19; \
    fi && \
    rm -rf /var/lib/apt/lists/* && \
    groupadd --system --gid 10001 pgseal && \
    useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin pgseal && \
    install -d -o pgseal -g pgseal -m 700 /var/lib/pgseal
COPY --from=build /out/pgseal /usr/local/bin/pgseal
COPY LICENSE NOTICE /usr/share/doc/pgseal/

# By number, so that a platform can tell that it is not root.
USER 10001:10001
# The base's clients stand in /usr/lib/postgresql/MAJOR/bin, where pgseal looks by itself.
ENV BACKUP_LISTEN=0.0.0.0:8000 \
    BACKUP_SPOOL_DIR=/var/lib/pgseal
VOLUME /var/lib/pgseal
EXPOSE 8000
ENTRYPOINT ["/usr/local/bin/pgseal"]
CMD ["serve"]
# For a worker: pgseal worker --check.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/local/bin/pgseal", "serve", "--check"]
