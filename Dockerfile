# The image of the service: the same one answers in `docker run` and in every pod of a Ray cluster.
# The tag names the release line; for a rebuild to the byte give a digest: --build-arg BASE=python@sha256:...
ARG BASE=python:3.11-slim-bookworm


FROM ${BASE} AS build

# torch without CUDA; an empty value takes PyPI's build, for GPUs.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Two prefixes become two layers below: the gigabytes of dependencies change with the pins alone.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && pip install --prefix=/dependencies -c constraints.txt -r requirements.txt
COPY LICENSE README.md ./
COPY variants variants
COPY paretoserve paretoserve
COPY serving serving
COPY loadtests loadtests
RUN pip install --prefix=/package --no-deps -c constraints.txt .


FROM ${BASE}

LABEL org.opencontainers.image.title="paretoserve" \
      org.opencontainers.image.licenses="Apache-2.0"

# tini reaps what Ray leaves behind; KubeRay's probes run bash, wget and grep (two of them are there).
# Debian keeps only its newest build of a package, so a pinned version would soon not install.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home paretoserve

# Under /usr/local, since a login shell (KubeRay can be told to use one) forgets any other PATH.
COPY --from=build /dependencies /usr/local
WORKDIR /app
COPY examples examples
COPY --from=build /package /usr/local

# A catalog names its model by import path (`examples.fashion_mnist.model:...`), hence PYTHONPATH.
# The RAY_ variables work only if they are set before Ray starts.
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
