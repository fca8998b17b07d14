# The factlife image: package, data sets and torch wheels that carry CUDA. Runs offline.
#   docker build --build-arg GIT_SHA=$(git rev-parse HEAD) --tag factlife .
#   docker run --rm factlife                            # help
#   docker run --rm --network none factlife demo
#   docker run --rm --gpus all -v $PWD/runs:/runs factlife run EleutherAI/pythia-160m
#   docker run --rm --gpus all -v $PWD/runs:/runs -v $PWD/my-model:/model:ro factlife run /model
# For CPUs only: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS build
# Versions of Debian's packages are not pinned: its mirrors keep only the last one of a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       ca-certificates libpython3-dev python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/factlife \
    # triton compiles against Python's headers; nothing else of the development package is needed
    && mkdir /headers \
    && cp --archive --parents /usr/include/python3* /usr/include/*/python3* /headers
ENV PATH=/opt/factlife/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Dependencies first: they are large, and code changes must not fetch them again.
COPY pyproject.toml constraints.txt ./
# PyPI's torch carries CUDA. TORCH_INDEX is one more package index, whose build of the same version,
# e.g. 2.13.0+cpu, goes before PyPI's; TORCH may be the URL of a wheel instead.
ARG TORCH=torch
ARG TORCH_INDEX=
RUN pip install --no-cache-dir --constraint constraints.txt \
       ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} setuptools "${TORCH}" \
    && python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
e = p['optional-dependencies']; print('\n'.join(p['dependencies'] + e['models'] + e['data'] + e['cluster']))" \
       > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY benchmark benchmark
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}
# gcc and libc6-dev compile the kernel that traces circuits on a CPU, and triton's launcher on a GPU.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-create-home --home-dir /tmp --no-log-init --uid 1000 factlife \
    && mkdir -m 1777 /runs
COPY --from=build /headers /
COPY --from=build /opt/factlife /opt/factlife
COPY datasets /opt/factlife/datasets
ARG GIT_SHA=
ARG VERSION=0.1.0
# The data sets never need the network. A series on the Hub does: -e HF_HUB_OFFLINE=1 forbids that too.
# Everything that is written beside /runs goes under /tmp, also for a --user that has no home; the
# cache of downloads is /tmp/huggingface: mount a folder there to keep it.
ENV PATH=/opt/factlife/bin:$PATH \
    HOME=/tmp USER=factlife \
    FACTLIFE_DATASETS=/opt/factlife/datasets \
    FACTLIFE_GIT_SHA=${GIT_SHA} \
    HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 \
    HF_HOME=/tmp/huggingface XDG_CACHE_HOME=/tmp/cache \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor TRITON_CACHE_DIR=/tmp/cache/triton \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="factlife" \
      org.opencontainers.image.description="Measures the life of a fact inside a language model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${GIT_SHA}"
# By number: Kubernetes' runAsNonRoot cannot tell what a name stands for.
USER 1000:1000
# `runs/…`, where every command writes by default, is the volume /runs.
WORKDIR /
VOLUME /runs
# The exec form: factlife is process 1 and hears SIGTERM itself.
ENTRYPOINT ["factlife"]
CMD ["--help"]
