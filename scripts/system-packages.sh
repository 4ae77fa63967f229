#!/usr/bin/env bash
# What is needed from outside Python: a C++ compiler for the integer kernels, for the
# tests redis-server and PostgreSQL's binaries, and a Python that can make virtual
# environments. Installs what is missing where it may
# (root on Debian or Ubuntu) and otherwise says what that means. Never fails: without
# these the service still works, and the tests that need them are skipped by name.
set -uo pipefail

python="${PYTHON:-python3.11}"

has_redis() { command -v redis-server >/dev/null; }

# Debian keeps initdb out of the PATH.
has_postgresql() {
  command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

has_compiler() { command -v g++ >/dev/null || command -v c++ >/dev/null; }

has_venv() { "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; }

missing=()
has_redis || missing+=(redis-server)
has_postgresql || missing+=(postgresql)
has_compiler || missing+=(g++)
# Debian's own Python comes without venv; others (pyenv, uv) bring it.
if command -v "$python" >/dev/null && ! has_venv; then
  missing+=("$(basename "$python")-venv")
fi

if ((${#missing[@]})); then
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    echo "Installing ${missing[*]} ..."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || true
    # One by one: a package that cannot be had must not cost the others.
    for package in "${missing[@]}"; do
      apt-get install -qq -y --no-install-recommends "$package" </dev/null >/dev/null ||
        echo "apt-get could not install $package."
    done
  else
    echo "Missing: ${missing[*]}. To have them: sudo apt-get install ${missing[*]}"
  fi
fi

has_redis || echo "No redis-server: the tests with a Redis broker will be skipped."
has_postgresql || echo "No PostgreSQL: the tests with a PostgreSQL ledger will be skipped."
has_compiler || echo "No C++ compiler: integer kernels will run with plain torch between them, slower."
if ! command -v "$python" >/dev/null; then
  echo "There is no $python in the PATH: the next step will fail."
  echo "Install Python 3.11, or name another one: make setup PYTHON=python3.12"
elif ! has_venv; then
  echo "$python cannot make virtual environments: the next step will fail."
  echo "Install its venv package, for example: sudo apt-get install $(basename "$python")-venv"
fi
exit 0
