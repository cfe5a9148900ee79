# syntax=docker/dockerfile:1
# The images are `server` (MLflow) and `train` (the pipeline; the default, because it is last). The other stages prepare
# them. compose.yaml starts both images.
#   docker build -t stpp .                                      runs on CUDA and on CPU
#   docker build -t stpp --build-arg TORCH_INDEX=URL .          installs torch from another index; with PyTorch's index
#                                                               for CPUs, the image is 4 GB smaller
FROM python:3.11-slim-bookworm AS base
# Any user that a container runs as (`--user`) has a writable home and a name. DVC stops if the user has no name.
ENV HOME=/tmp USER=stpp MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --uid 10001 --home-dir /tmp stpp

FROM base AS versions
# The versions come from requirements.lock, without its hashes: torch from another index than PyPI has other hashes.
COPY requirements.lock ./
RUN sed -nE 's/^([a-z0-9].*==[^\\]*).*/\1/p' requirements.lock > /versions.txt

FROM base AS build
ARG TORCH_INDEX=""
ENV PATH=/opt/venv/bin:$PATH PIP_CONSTRAINT=/versions.txt
RUN python -m venv /opt/venv
WORKDIR /app
COPY --from=versions /versions.txt /versions.txt
COPY pyproject.toml ./
# This layer has only the dependencies and an empty package, so that an edit of the project does not reinstall them.
# torch and torchvision come from the same index: a CPU build of one does not work with a CUDA build of the other.
# hadolint ignore=DL3013
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch torchvision; fi \
    && mkdir stpp && touch README.md stpp/__init__.py \
    && pip install --editable .

FROM base AS server
COPY --from=versions /versions.txt /versions.txt
# Only the server needs the drivers for PostgreSQL and S3.
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
# Another user may own the mounted folder. Git refuses such a folder unless it is listed in safe.directory.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system safe.directory '*'
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app
# .dockerignore keeps secrets out. Every user may write here, because the container may run as any user. DVC needs a git
# repository; this one is empty, so make commits outside the container.
COPY . .
RUN git init --quiet && chmod -R a+rwX /app
USER 10001
HEALTHCHECK NONE
CMD ["sh", "-c", "dvc repro && stpp show"]
