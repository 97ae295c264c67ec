# shellcheck shell=bash
# unprivileged FILE COMMAND…: runs COMMAND as nobody where we are root and nobody can read FILE (a
# checkout below /root cannot be read), else as we are.
unprivileged() {
  local file=$1
  shift
  if ((EUID == 0)) && command -v setpriv >/dev/null &&
    setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$file"; then
    setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="${scratch:?}" "$@"
  else
    "$@"
  fi
}
