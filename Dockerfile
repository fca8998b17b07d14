# The factlife image: package, data sets and torch wheels that carry CUDA. Runs offline.
#   docker build -t factlife .
#   docker run --rm --network none factlife demo
#   docker run --rm --gpus all -v $PWD/runs:/runs factlife run EleutherAI/pythia-160m
#   docker run --rm --gpus all -v $PWD/runs:/runs -v $PWD/my-model:/model factlife run /model
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/factlife
ENV PATH=/opt/factlife/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Dependencies first: they are large, and code changes must not fetch them again.
COPY pyproject.toml constraints.txt ./
# TORCH=torch takes the wheel with CUDA; a URL or path gives another build, e.g. one for CPUs only.
ARG TORCH=torch
RUN pip install --constraint constraints.txt setuptools "${TORCH}" \
    && python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
e = p['optional-dependencies']; print('\n'.join(p['dependencies'] + e['models'] + e['data']))" \
       > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY benchmark benchmark
RUN pip install --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 factlife \
    && mkdir -m 1777 /runs
COPY --from=build /opt/factlife /opt/factlife
COPY datasets /opt/factlife/datasets
ARG GIT_SHA=
# The data sets never need the network. A series on the Hub does: -e HF_HUB_OFFLINE=1 forbids that too.
ENV PATH=/opt/factlife/bin:$PATH \
    FACTLIFE_DATASETS=/opt/factlife/datasets \
    FACTLIFE_GIT_SHA=${GIT_SHA} \
    HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 \
    HF_HOME=/tmp/huggingface XDG_CACHE_HOME=/tmp/cache \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="factlife" \
      org.opencontainers.image.description="Measures the life of a fact inside a language model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${GIT_SHA}"
USER factlife
# `runs/…`, where every command writes by default, is the volume /runs.
WORKDIR /
VOLUME /runs
ENTRYPOINT ["factlife"]
CMD ["demo"]
