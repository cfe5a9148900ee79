# syntax=docker/dockerfile:1
# Three images: `build` (from which `train` is made), `server` (MLflow) and `train` (the pipeline; the default, being last).
#   docker build -t stpp .                                      runs on CUDA and on CPU
#   docker build -t stpp --build-arg TORCH_INDEX=ADDRESS .      from another index: PyTorch's for CPU makes it 4 GB smaller
# compose.yaml starts them together.
FROM python:3.11-slim-bookworm AS base
# Whoever a container runs as (`--user`) has a home to write to, and a name: DVC stops for a user without one.
ENV HOME=/tmp USER=stpp MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --uid 10001 --home-dir /tmp stpp

FROM base AS versions
# The versions of the lock, without its hashes: torch from another index than PyPI has other hashes.
COPY requirements.lock ./
RUN sed -nE 's/^([a-z0-9].*==[^\\]*).*/\1/p' requirements.lock > /versions.txt

FROM base AS build
ARG TORCH_INDEX=""
ENV PATH=/opt/venv/bin:$PATH PIP_CONSTRAINT=/versions.txt
RUN python -m venv /opt/venv
WORKDIR /app
COPY --from=versions /versions.txt /versions.txt
COPY pyproject.toml ./
# Only the dependencies, and the folder in which the project will be: editing the project installs nothing again.
# torch and torchvision come from one index, so that a CPU build of one does not load a CUDA build of the other.
# hadolint ignore=DL3013
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch torchvision; fi \
    && mkdir stpp && touch README.md stpp/__init__.py \
    && pip install --editable .

FROM base AS server
COPY --from=versions /versions.txt /versions.txt
# The drivers of PostgreSQL and S3 are only the server's.
# hadolint ignore=DL3013
RUN pip install --constraint /versions.txt mlflow "psycopg2-binary>=2.9,<3" "boto3>=1.34,<2" \
    && install --directory --owner stpp /store
USER 10001
VOLUME /store
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=3)"]
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1", \
     "--backend-store-uri", "sqlite:////store/mlflow.db", "--artifacts-destination", "/store/artifacts"]

FROM base AS train
# A folder that is mounted may be another user's, which git refuses unless it is told not to.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system safe.directory '*'
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app
# What .dockerignore admits, which is no secret: whoever the container runs as writes here. Commits are made outside, where
# the history is.
COPY . .
RUN git init --quiet && chmod -R a+rwX /app
USER 10001
HEALTHCHECK NONE
CMD ["sh", "-c", "dvc repro && stpp show"]
