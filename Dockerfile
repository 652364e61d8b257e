# The host image: NanoClaw itself, for docker-compose.yml. Agents run from another one, container/Dockerfile.
#
#   docker compose build           (by hand: docker build -t nanoclaw-host .)
# No BuildKit feature is used, so that every builder makes the same image, for amd64 and arm64. Where a network signs
# TLS anew, its CA bundle as container/ca.crt is used while packages are fetched; it does not get into the image.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS base
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates tini tzdata \
 && { python3 -c 'import asyncio' 2>/dev/null || apt-get install -y --no-install-recommends python3; } \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
      /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /usr/share/info/*

FROM base AS build
LABEL nanoclaw.stage=host
# A base that brings its own Python brings pip with it, Debian's does not. Tables that are hardly ever read stay
# uncompiled: they would be two thirds of that work.
RUN python3 -m pip --version 2>/dev/null \
 || { apt-get update && apt-get install -y --no-install-recommends python3-pip; }
COPY requirements/host.txt container/ca.cr[t] /build/
RUN if [ -s /build/ca.crt ]; then export PIP_CERT=/build/ca.crt; fi \
 && python3 -m pip install --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
      --require-hashes --only-binary :all: --target /opt/nanoclaw/lib -r /build/host.txt \
 && rm -rf /opt/nanoclaw/lib/bin \
 && python3 -m compileall -q -j0 -x 'phonenumbers/.*data|pygments/lexers' /opt/nanoclaw/lib \
 && chmod -R a+rX /opt/nanoclaw
COPY nanoclaw /opt/nanoclaw/app/nanoclaw
COPY container /opt/nanoclaw/app/container
COPY skills /opt/nanoclaw/app/skills
COPY deploy/enter.sh /opt/nanoclaw/enter.sh
# Root's own and readable for everybody: whoever the host runs as, it can change nothing of itself.
RUN rm -f /opt/nanoclaw/app/container/ca.crt \
 && python3 -m compileall -q -j0 /opt/nanoclaw/app/nanoclaw \
 && chmod -R u=rwX,go=rX /opt/nanoclaw/app \
 && chmod 755 /opt/nanoclaw/enter.sh

FROM base
# A new volume takes over the owner and the mode of the folder that it is mounted on.
RUN echo 'nanoclaw:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'nanoclaw:x:10001:' >>/etc/group \
 && install -d -o 10001 -g 10001 -m 700 /data /run/nanoclaw \
 && install -d -o 0 -g 10001 -m 750 /guard \
 && ln -s /opt/nanoclaw/enter.sh /usr/local/bin/nanoclaw
COPY --from=build /opt/nanoclaw/lib /opt/nanoclaw/lib
COPY --from=build /opt/nanoclaw/enter.sh /opt/nanoclaw/enter.sh
COPY --from=build /opt/nanoclaw/app /opt/nanoclaw/app

ENV PYTHONPATH=/opt/nanoclaw/app:/opt/nanoclaw/lib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8 \
    HOME=/tmp \
    NEONIZE_BOT_TAG=off \
    NANOCLAW_HOME=/data/home \
    NANOCLAW_RUN_DIR=/run/nanoclaw
WORKDIR /data
ENTRYPOINT ["nanoclaw"]
CMD ["run"]
