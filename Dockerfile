# Two stages: pip and its caches stay in the first, the second gets the virtual environment.
#
# Versions are those of deploy/requirements.lock, which `make lock` renews. It is used as a list of constraints,
# without hashes, because PyTorch has CPU and CUDA builds of each version. The default build from the package index
# runs on both; for a much smaller, CPU-only image pass the index that has CPU builds:
# docker build --build-arg PIP_EXTRA_ARGS="--extra-index-url ..." .

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG PIP_EXTRA_ARGS=""
# Optional parts of the package, separated by commas: c2pa, mcp, otel, ray.
ARG EXTRAS="otel"
RUN python -m venv /opt/atelier
ENV PATH=/opt/atelier/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# The dependencies first: this layer, gigabytes of it, is rebuilt only when these files change.
COPY pyproject.toml README.md LICENSE ./
COPY deploy/requirements.lock ./deploy/
RUN mkdir service && touch service/__init__.py \
    && pip install ${PIP_EXTRA_ARGS} --constraint deploy/requirements.lock ".[${EXTRAS}]" \
    && rm -rf build ./*.egg-info
COPY service ./service
RUN pip install --no-deps --force-reinstall .

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="Atelier" \
      org.opencontainers.image.description="Style-personalised images: upload a style once, draw any prompt in it." \
      org.opencontainers.image.licenses="Apache-2.0"
# ATELIER_COMPILE compiles kernels while the service starts: PyTorch's compiler calls g++. Its version is Debian's, which
# changes with security fixes alone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin atelier \
    && install -d -o atelier -g atelier /data
COPY --from=build /opt/atelier /opt/atelier
ENV PATH=/opt/atelier/bin:$PATH PYTHONUNBUFFERED=1 \
    ATELIER_HOST=0.0.0.0 ATELIER_PORT=8000 ATELIER_DATA_DIR=/data ATELIER_LOG_FORMAT=json
# It listens beyond the container, so it needs API keys (ATELIER_API_KEYS) or ATELIER_ALLOW_ANONYMOUS=true to start.
# By number, which is how Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /home/atelier
VOLUME /data
EXPOSE 8000
# Healthy means ready: whatever waits for a healthy container wants to send requests.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --start-interval=2s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; \
urllib.request.urlopen('http://127.0.0.1:' + os.environ['ATELIER_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["atelier"]
CMD ["serve"]
