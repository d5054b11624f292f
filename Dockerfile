FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY dwarf_nats dwarf_nats
COPY migrations migrations
COPY schemas schemas
COPY examples examples
RUN PIP_CONSTRAINT=constraints.txt pip install --no-cache-dir --prefix=/install '.[otel]'

FROM python:3.11-slim
COPY --from=build /install /usr/local
RUN useradd --system --no-create-home dwarf
USER dwarf
ENTRYPOINT ["dwarf-nats"]
CMD ["--help"]
