# The api and the indexer, and one process of everything but the model: no torch. Build in the root of the checkout:
#
#   docker build -f docker/app.Dockerfile -t ret2-app:0.1.0 \
#     --build-arg BASE=python:3.13-slim-bookworm@sha256:DIGEST --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# BASE      Debian or Ubuntu with python3 (3.11 or newer) and its venv module. A release names it by digest: the one that
#           `docker buildx imagetools inspect python:3.13-slim-bookworm` says on that day. A tag alone can change under you.
# EXTRAS    extras of pyproject.toml to install as well, comma-separated; without postgres neither api nor indexer starts
# The user is 10001, nothing but /tmp is written to: run it with a read-only root file system.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS="postgres,s3,otel,heic"
ARG PIP_FIND_LINKS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python3 -m venv /opt/ret2
ENV PATH=/opt/ret2/bin:$PATH
# What changes rarely comes first: these layers stay until pyproject.toml or constraints.txt does not.
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py pyproject.toml "${EXTRAS}" > requirements.txt \
 && pip install --constraint constraints.txt --requirement requirements.txt hatchling==1.33.0 editables==0.6
COPY README.md LICENSE ./
COPY indexer indexer
COPY model model
COPY service service
# The checkpoint is the encoder's. pip compiles what it installs: at run time the file system is read-only.
RUN rm -rf model/checkpoints \
 && pip install --no-deps --no-build-isolation . \
 && pip uninstall --yes hatchling editables pathspec pluggy trove-classifiers setuptools pip

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="ret2 app" \
      org.opencontainers.image.description="Multimodal retrieval as a service: the api and the indexer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /opt/ret2 /opt/ret2
# HOME and USER: libraries ask for them, and a user without an entry in /etc/passwd has none.
ENV PATH=/opt/ret2/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp USER=ret2 \
    RET2_DATA_DIR=/tmp/ret2
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/ret2/bin/ret2"]
CMD ["serve"]
