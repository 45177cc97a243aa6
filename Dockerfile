# The image of the service, for `docker run` and for every pod of a Ray cluster.
# The tag of the base image is a release line. For reproducible builds, set a digest instead:
# --build-arg BASE=python@sha256:...
ARG BASE=python:3.11-slim-bookworm


FROM ${BASE} AS build

# The index of torch without CUDA; an empty value installs the build for GPUs from PyPI.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Compiles the kernels of sparse layers.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# Two prefixes become two layers below, so that a change of the code does not copy gigabytes of
# dependencies again.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['postgres'], sep='\n')" > requirements.txt \
    && pip install --prefix=/dependencies -c constraints.txt -r requirements.txt
COPY LICENSE README.md ./
COPY variants variants
COPY paretoserve paretoserve
COPY serving serving
COPY loadtests loadtests
# pip leaves the kernels out if they cannot be compiled; an image without them would be slow.
RUN pip install --prefix=/package --no-deps -c constraints.txt . \
    && ls /package/lib/python*/site-packages/variants/runtime/kernels/_kernels*.so


FROM ${BASE}

LABEL org.opencontainers.image.title="paretoserve" \
      org.opencontainers.image.licenses="Apache-2.0"

# OpenShift runs the image as any user of group 0, which may therefore write what user 1000 may.
# tini reaps the orphaned processes of Ray. The probes of KubeRay run bash, wget and grep; the base
# image lacks only wget. Versions are not pinned, because Debian keeps only the newest build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home paretoserve \
    && chgrp -R 0 /home/paretoserve \
    && chmod -R g=u /home/paretoserve

# In /usr/local, because a login shell, which KubeRay can use, resets any other PATH.
COPY --from=build /dependencies /usr/local
WORKDIR /app
COPY examples examples
COPY --from=build /package /usr/local

# PYTHONPATH: a catalog names its model by import path (`examples.fashion_mnist.model:...`).
# RAY_ variables take effect only if they are set before Ray starts.
ENV PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/home/paretoserve \
    RAY_worker_niceness=0 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_LOG_TO_STDERR=0 \
    RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0 \
    PARETOSERVE_CATALOG=/catalog \
    PARETOSERVE_HTTP__HOST=0.0.0.0 \
    PARETOSERVE_GRPC__HOST=0.0.0.0

USER 1000:1000
EXPOSE 8000 9000

HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["wget", "--quiet", "--tries=1", "--timeout=2", "--output-document=/dev/null", "http://127.0.0.1:8000/-/healthz"]

ENTRYPOINT ["tini", "--"]
CMD ["paretoserve", "up"]
