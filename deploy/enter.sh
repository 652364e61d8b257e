#!/bin/sh
# The `nanoclaw` command of the host image. Who comes as root (the engine, `docker compose exec`) gives the data to the
# unprivileged user and drops every right before anything of NanoClaw begins.
set -eu
uid=${PUID:-10001}
gid=${PGID:-$uid}

secret() { # secret VARIABLE FILE: a file may belong to anybody, so it is read while this may still read it
  eval "given=\${$1-}"
  if [ -z "$given" ] && [ -f "/run/secrets/$2" ] && [ -r "/run/secrets/$2" ]; then
    given=$(tr -d '\r\n' <"/run/secrets/$2")
    export "$1=$given"
  fi
}
secret ANTHROPIC_API_KEY anthropic_api_key
secret CLAUDE_CODE_OAUTH_TOKEN claude_code_oauth_token

# -P: the working folder is no source of code.
set -- python3 -s -P -m nanoclaw "$@"
[ $$ != 1 ] || set -- tini -- "$@"
if [ "$(id -u)" = 0 ]; then
  for folder in /data "$NANOCLAW_RUN_DIR"; do
    if [ "$(stat -c %u:%g "$folder")" != "$uid:$gid" ]; then
      chown -RhP "$uid:$gid" "$folder" # another's as a whole: nothing of ours has run in it, so nobody plays with links
    fi
  done
  find /data -maxdepth 1 ! -uid "$uid" -exec chown -h "$uid:$gid" {} + # what `docker compose cp` has put there
  groups=--clear-groups
  [ -z "${ENGINE_GID:-}" ] || groups=--groups=$ENGINE_GID # compose.raw.yml: who may use the engine's own socket
  set -- setpriv --reuid "$uid" --regid "$gid" "$groups" --no-new-privs \
    --inh-caps=-all --ambient-caps=-all --bounding-set=-all -- "$@"
fi
exec "$@"
