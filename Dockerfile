# A replica, a worker, or any other command of the service:
#
#   docker build -t dwarf-nats .
#   docker run dwarf-nats serve --nats nats://… --dsn postgresql://…
#   docker run -v dwarf:/data dwarf-nats serve --nats nats://… --dsn sqlite:///dwarf.db
#
# Nothing in the image is written to while it runs: --read-only is fine. What is to last goes to /data.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/dwarf
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY dwarf_nats dwarf_nats
COPY migrations migrations
COPY schemas schemas
COPY examples examples
COPY deploy/image /opt/dwarf/bin
# Bytecode by hash of the source: a layer's timestamps do not matter then, and nobody has to write it later.
RUN pip --python /opt/dwarf/bin/python install --no-compile ".[otel]" \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/dwarf/lib

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="dwarf-nats" \
      org.opencontainers.image.description="Durable workflow orchestration as a service on NATS" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin dwarf \
 && install --directory --owner dwarf --group dwarf /data \
 && PIP_ROOT_USER_ACTION=ignore pip uninstall --yes --quiet pip setuptools wheel
COPY --from=build /opt/dwarf /opt/dwarf
# A replica answers its health check here. Several on one host network need a port each, or none: -e DWARF_HEALTH_PORT=
ENV PATH=/opt/dwarf/bin:$PATH \
    DWARF_HEALTH_PORT=8080 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /data
# By number, so that a cluster can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["dwarf-healthcheck"]
ENTRYPOINT ["dwarf-nats"]
CMD ["--help"]
