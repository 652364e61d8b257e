#!/usr/bin/env bash
# NanoClaw's front door: makes everything that is missing, then does what it was asked for.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv
uv_version=0.13.8 # makes the locks
yes=
# The WhatsApp library, which reads it when the process starts, would mark what goes to phone numbers as a business bot's.
export NEONIZE_BOT_TAG=off

usage() {
  cat <<'END'
./nanoclaw.sh [--yes] [command]     --yes answers every question with yes

  ./nanoclaw.sh                     set up what is missing, link WhatsApp, then talk to the assistant
  ./nanoclaw.sh chat -m "Hello"     one message, one reply
  ./nanoclaw.sh setup               API key or token, WhatsApp number, daily limit, time zone
  ./nanoclaw.sh pair                link WhatsApp; by a code to type: pair --phone +49...
  ./nanoclaw.sh logout              unlink it
  ./nanoclaw.sh up                  set up what is missing, then serve in the background
  ./nanoclaw.sh stop                end it in order
  ./nanoclaw.sh logs -f             what happens
  ./nanoclaw.sh upgrade             to the newest version, or back to this one if that does not work
  ./nanoclaw.sh uninstall           unlink, stop and remove it; --purge: its home too
  ./nanoclaw.sh run                 serve here until stopped
  ./nanoclaw.sh demo                see it work first: no account, no key
  ./nanoclaw.sh test                lint, types and all tests, those against the engine included
  ./nanoclaw.sh test -k mailbox     some tests (the rest of the line is pytest's)
  ./nanoclaw.sh bench               the numbers, beside their floors
  ./nanoclaw.sh chaos --kills 1000  the proof by killing: what is lost, what is doubled
  ./nanoclaw.sh lock                make the version locks anew
  ./nanoclaw.sh status --help       any other word is the nanoclaw command's

NANOCLAW_HOME names another home than ~/.nanoclaw.
END
}

say() { printf '%s\n' "$*" >&2; }
die() {
  say "nanoclaw: $*"
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

ask() { # ask QUESTION ADVICE: yes, or an end that says what to do instead
  [[ $yes ]] && return
  [[ -t 0 ]] || die "$2 (or run this again with --yes)"
  local answer
  read -r -p "$1 [Y/n] " answer
  [[ $answer != [nN]* ]] || die "$2"
}

# --- what the system brings ---

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "root is needed for: $*"
  fi
}

apt_install() { # apt_install WHY PACKAGE...
  local why=$1
  shift
  have apt-get || die "$why: install $* with your system's package manager"
  ask "$why. Install $* from this system's packages?" "$why: sudo apt-get install $*"
  say "Installing $* ..."
  local log
  log=$(mktemp)
  if ! { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y "$@"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    die "apt-get could not install $*; see the lines above"
  fi
  rm -f "$log"
}

# --- Python ---

python_of() { # a Python that is new enough and can make a venv
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

venv_key() { printf '%s %s' "$here" "$(cat "$here/requirements/$1.txt" "$here/pyproject.toml" | cksum)"; }

ensure_venv() { # ensure_venv host|dev: what the lock says, installed again only when it changed
  local key stamp=$venv/.nanoclaw installed=
  if [[ -f $stamp && -x $venv/bin/nanoclaw ]]; then installed=$(<"$stamp"); fi
  for key in "$(venv_key "$1")" "$(venv_key dev)"; do # what tests need is enough for everything
    [[ $installed != "$key" ]] || return 0
  done
  local python
  if ! python=$(python_of); then
    apt_install "Python 3.11 or newer with its venv module is needed" python3 python3-venv
    python=$(python_of) || die "this system's Python is too old: install Python 3.11 or newer"
  fi
  say "Installing NanoClaw's Python packages (a minute at the first time) ..."
  "$python" -m venv "$venv" || die "no virtual environment could be made in $venv: remove it and try again"
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq)
  "${pip[@]}" install --require-hashes -r "$here/requirements/$1.txt" || die "pip could not fetch the packages: check the network"
  "${pip[@]}" install --no-deps --no-build-isolation -e "$here" || die "the package could not be installed; see above"
  venv_key "$1" >"$stamp"
}

# --- the container engine ---

engine_answers() {
  if have docker; then
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1
  else
    "$venv/bin/python" -c 'import docker; docker.from_env(timeout=5).ping()' 2>/dev/null
  fi
}

find_engine() { # an engine that runs already: the usual one, a rootless one, Docker Desktop's, podman's
  local socket run=${XDG_RUNTIME_DIR:-/run/user/$UID}
  if engine_answers; then
    if [[ -z ${DOCKER_HOST-} && ! -S /var/run/docker.sock ]]; then
      # The docker command knows it from its context; we are told by the variable alone.
      DOCKER_HOST=$(docker context inspect --format '{{.Endpoints.docker.Host}}')
      export DOCKER_HOST
    fi
    return 0
  fi
  [[ -z ${DOCKER_HOST-} ]] || die "no engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST"
  for socket in "$run/docker.sock" "$run/podman/podman.sock"; do
    if [[ -S $socket ]] && DOCKER_HOST=unix://$socket engine_answers; then
      export DOCKER_HOST=unix://$socket
      return 0
    fi
  done
  return 1
}

check_group() {
  [[ ! -S /var/run/docker.sock || -w /var/run/docker.sock ]] ||
    die "$(id -un) may not use the engine: sudo usermod -aG docker $(id -un), then log in again (it is as good as root)"
}

start_engine() {
  if [[ -d /run/systemd/system ]]; then
    as_root systemctl start docker || die "the engine did not start: systemctl status docker says why"
  else
    start_dockerd
  fi
  local i
  for ((i = 0; i < 60; i++)); do
    if engine_answers; then return; fi
    check_group
    if grep -qs 'failed to start daemon' "${dockerd_log-}"; then
      die "the engine did not start: $(grep -m1 'failed to start daemon' "$dockerd_log" | cut -c 1-200)"
    fi
    sleep 1
    printf . >&2
  done
  say
  die "the engine did not come up within a minute: ${dockerd_log:-systemctl status docker} says why"
}

start_dockerd() { # no init system runs here: the daemon is started by hand and outlives this script
  dockerd_log=/var/log/nanoclaw-dockerd.log
  say "Starting the container engine (its log: $dockerd_log) ..."
  # shellcheck disable=SC2016 # $0 is the inner shell's
  as_root sh -c 'PATH=$PATH:/usr/sbin:/sbin setsid nohup dockerd >"$0" 2>&1 </dev/null &' "$dockerd_log"
}

ensure_engine() {
  find_engine && return
  check_group
  if ! have dockerd && [[ ! -x /usr/sbin/dockerd ]]; then
    [[ $(uname -s) == Linux ]] || die "no container engine answers: install Docker Desktop and start it"
    apt_install "No container engine was found" docker.io
  fi
  start_engine
}

ensure_image() {
  if "$venv/bin/nanoclaw" image status >/dev/null; then return; fi
  # Only where no image registry answers is debootstrap needed: it makes a base of this system's packages.
  if have apt-get && [[ ! -x /usr/sbin/debootstrap ]] && ! base_answers; then
    apt_install "No image registry answers, so a base image has to be made" debootstrap
  fi
  "$venv/bin/nanoclaw" image build
}

base_answers() {
  local base=${NANOCLAW_BASE_IMAGE:-python:3.12-slim}
  have docker || return 0
  docker image inspect "$base" >/dev/null 2>&1 && return
  say "Fetching $base ..."
  docker pull --quiet "$base" >/dev/null 2>&1
}

# --- docker compose, for the tests of the deployment ---

compose_plugin=$venv/docker/cli-plugins/docker-compose

ensure_compose() {
  if new_enough docker compose version --short || new_enough "$compose_plugin" version --short; then return; fi
  say "Fetching docker compose for the tests ..."
  fetch_compose ||
    say "docker compose (2.24 or newer) is missing and could not be fetched: install docker-compose-plugin; its tests will fail"
}

new_enough() { # new_enough COMMAND...: whether what it prints is version 2.24 or newer
  local found
  found=$("$@" 2>/dev/null) || return 1
  [[ ${found#v} =~ ^([0-9]+)\.([0-9]+) ]] || return 1
  ((BASH_REMATCH[1] > 2 || (BASH_REMATCH[1] == 2 && BASH_REMATCH[2] >= 24)))
}

fetch_compose() ( # into the venv alone; Debian 12 has only version 1, but the next release's runs there too
  have apt-get && have dpkg-deb || return 1
  scratch=$(mktemp -d) || return 1 # its caller asks how it ends, so errexit is off in here
  # shellcheck disable=SC2064 # the folder's name is meant as it is now
  trap "rm -rf '$scratch'" EXIT
  mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$(dirname -- "$compose_plugin")" || return 1
  cd "$scratch" || return 1
  # shellcheck disable=SC2016 # the words in it are apt's
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' | awk '$2 !~ /-/ { print $1; exit }')
  [[ $mirror ]] || return 1
  printf 'deb %s trixie main\n' "$mirror" >sources || return 1
  own=(-o "Dir::Etc::SourceList=$scratch/sources" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$scratch/lists"
    -o "Dir::Cache=$scratch/cache" -o "APT::Sandbox::User=$(id -un)")
  apt-get -qq download docker-compose-v2 2>/dev/null ||
    { apt-get "${own[@]}" -qq update && apt-get "${own[@]}" -qq download docker-compose; } >&2 || return 1
  dpkg-deb -x ./*.deb unpacked || return 1
  found=$(find unpacked -path '*/cli-plugins/docker-compose' -type f)
  [[ -n $found ]] && install -m 755 "$found" "$compose_plugin"
)

# --- commands ---

prepare() { # prepare host|dev
  ensure_venv "$1"
  ensure_engine
}

any_image() { # a stale one is the host's to notice: a whole check would cost half a second of each start
  have docker && docker image inspect nanoclaw-agent >/dev/null 2>&1
}

ensure_settings() {
  local home=${NANOCLAW_HOME:-$HOME/.nanoclaw} key=${ANTHROPIC_API_KEY-}${CLAUDE_CODE_OAUTH_TOKEN-}
  if [[ -f $home/nanoclaw.toml && (-n $key || -f $home/.env) ]]; then return; fi
  "$venv/bin/nanoclaw" setup --chat-later ${yes:+--yes}
  first_time=1
}

ready_to_serve() { # everything that a host needs; asked before what takes long
  prepare host
  ensure_settings
  any_image || ensure_image
}

ours() { # the command, also in a clone that was moved: the script's first line still names the old place
  PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} "$venv/bin/python" -P -m nanoclaw "$@"
}

stop_host() {
  local code=0
  [[ -x $venv/bin/python && -x $venv/bin/nanoclaw ]] || die "nothing is installed here, so nothing runs"
  ours status >/dev/null 2>&1 || code=$?
  if ((code == 3)); then
    say "It does not run."
  else
    ours stop
  fi
}

uninstall() { # uninstall [--purge]: what it made, then the packages; the clone itself is its owner's
  local home=${NANOCLAW_HOME:-$HOME/.nanoclaw}
  if [[ -x $venv/bin/python && -x $venv/bin/nanoclaw ]]; then
    ours uninstall "$@"
    case " $* " in *" --help "* | *" -h "*) return ;; esac
    rm -rf -- "$venv"
    say "The packages in $venv are removed. What is left is this folder: $here"
    return
  fi
  [[ ! -d $venv ]] || rm -rf -- "$venv"
  say "Nothing is installed here."
  [[ ! -d $home ]] || say "The home $home is there: delete it, or run ./nanoclaw.sh setup and then this again."
}

run_tests() {
  have git || apt_install "The tests need git" git
  prepare dev
  ensure_image
  ensure_compose
  cd "$here"
  if (($#)); then exec "$venv/bin/python" -m pytest "$@"; fi
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  "$venv/bin/mypy"
  # Most of a test's time is waiting for a disk, so one process more than there are cores.
  "$venv/bin/python" -m pytest -n "$(($(nproc) + 1))" || try_again
}

try_again() { # a machine that stalls breaks limits that hold elsewhere: a few that failed get one more chance, alone
  local failed
  failed=$("$venv/bin/python" -c 'import json; print(len(json.load(open(".pytest_cache/v/cache/lastfailed"))))') || return 1
  if ((failed > 10)); then die "$failed tests failed"; fi
  say "$failed failed: once more, one by one. What passes now is still worth a look."
  "$venv/bin/python" -m pytest -n 0 --last-failed --last-failed-no-failures none
}

make_locks() {
  local python tools
  python=$(python_of) || die "Python 3.11 or newer with its venv module is needed"
  tools=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder's name is meant as it is now
  trap "rm -rf '$tools'" EXIT
  "$python" -m venv "$tools"
  "$tools/bin/pip" -qq --disable-pip-version-check install "uv==$uv_version"
  cd "$here"
  compile() {
    env -u PIP_FIND_LINKS "$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
      --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"
  }
  compile container/requirements.in -o container/requirements.txt
  compile pyproject.toml requirements/build.in --extra dev -o requirements/dev.txt
  # The same versions as the tests ran with.
  compile pyproject.toml requirements/build.in -c requirements/dev.txt -o requirements/host.txt
  say "The locks are made anew: run the tests before they are committed."
}

main() {
  local command=
  while (($#)); do
    case $1 in
      -y | --yes) yes=1 ;;
      *)
        if [[ $command ]]; then break; fi
        command=$1
        ;;
    esac
    shift
    # Behind these words everything is the command's own.
    case $command in '' | up | test | bench | chaos | demo | lock) ;; *) break ;; esac
  done
  case $command in
    -h | --help | help) usage ;;
    test) run_tests "$@" ;;
    lock) make_locks ;;
    bench)
      prepare dev
      ensure_image
      cd "$here"
      exec "$venv/bin/python" -m tests.bench "$@"
      ;;
    chaos)
      prepare dev
      ensure_image
      cd "$here"
      exec "$venv/bin/python" -m tests.chaos "$@"
      ;;
    demo)
      prepare dev
      ensure_image
      cd "$here"
      exec "$venv/bin/python" -m tests.demo "$@"
      ;;
    '')
      ready_to_serve
      if [[ ${first_time-} && ! $yes && -t 0 ]]; then "$venv/bin/nanoclaw" setup link hello group reminder; fi
      exec "$venv/bin/nanoclaw" chat
      ;;
    up)
      case ${1-} in -h | --help) ;; *) ready_to_serve ;; esac
      exec "$venv/bin/nanoclaw" up ${yes:+--yes} "$@"
      ;;
    stop)
      if (($#)); then exec "$venv/bin/nanoclaw" stop "$@"; fi
      stop_host
      ;;
    uninstall) uninstall "$@" ;;
    chat | run | pair)
      prepare host
      any_image || ensure_image
      exec "$venv/bin/nanoclaw" "$command" "$@"
      ;;
    image)
      ensure_venv host
      ensure_engine
      exec "$venv/bin/nanoclaw" "$command" "$@"
      ;;
    *)
      ensure_venv host
      exec "$venv/bin/nanoclaw" "$command" "$@"
      ;;
  esac
}

main "$@"
