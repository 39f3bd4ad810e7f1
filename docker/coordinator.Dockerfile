# The coordinator. It never runs a model: no torch, no GPU.
#   docker build -f docker/coordinator.Dockerfile -t fedmedlora/coordinator .
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig /var/log/*

# pip works from its own stage, mounted; the image itself has none.
FROM python AS pip
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/pip

FROM python
ENV PATH=/opt/fedmedlora/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv --without-pip /opt/fedmedlora \
    && useradd --uid 10001 --home-dir /var/lib/fedmedlora --shell /usr/sbin/nologin fedmed \
    && install --directory --owner=fedmed --group=fedmed --mode=0700 /var/lib/fedmedlora

# Two layers: the dependencies, then the code. Bytecode stays in: on a read-only root every health check would compile
# its imports again. The secrets may be absent: they are for machines whose way to a package index needs a pip.conf or a
# CA of their own.
RUN --mount=from=pip,source=/opt/pip,target=/opt/pip \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,source=docker/requirements.py,target=/build/requirements.py \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 /build/requirements.py coordinator postgres s3 < /build/pyproject.toml > /tmp/requirements.txt \
    && /opt/pip/bin/pip --python /opt/fedmedlora install --no-cache-dir \
        --requirement /tmp/requirements.txt --constraint /build/constraints.txt \
    && rm /tmp/requirements.txt

RUN --mount=from=pip,source=/opt/pip,target=/opt/pip \
    --mount=type=bind,target=/build,rw \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    /opt/pip/bin/pip --python /opt/fedmedlora install --no-cache-dir --no-deps /build

USER 10001:10001
WORKDIR /var/lib/fedmedlora
EXPOSE 8443 8444 9100
HEALTHCHECK --interval=30s --timeout=30s --start-period=30s \
    CMD ["fedmed-coordinator", "health", "--config", "/etc/fedmedlora/coordinator.toml"]
ENTRYPOINT ["fedmed-coordinator"]
CMD ["serve", "--config", "/etc/fedmedlora/coordinator.toml"]
