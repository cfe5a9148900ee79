# The pipeline in a container. To keep what comes out, in a folder that the container's user may write:
#   docker build -t stpp . && mkdir -p out && docker run --user "$(id -u)" -e HOME=/tmp -v "$PWD/out:/app/runs" stpp
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home stpp

WORKDIR /app
COPY pyproject.toml README.md ./
COPY stpp stpp
RUN pip install --no-cache-dir --editable .

COPY . .
RUN git init --quiet && chown -R stpp:stpp /app && chmod -R a+rwX /app && git config --system safe.directory /app
USER stpp
ENV MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
CMD ["sh", "-c", "dvc repro && stpp show"]
