# shellcheck shell=bash
# choose_user FILE…: sets as_user, the words before a command that run it as nobody where we are root, and
# nothing otherwise. Where nobody cannot read a FILE (in a checkout below /root), it gets the right to
# read everything, but to write nothing. 77: we are root and cannot become such a user.
choose_user() {
  as_user=()
  if ((EUID != 0)); then
    echo "user: $(id -un)"
    return
  fi
  local nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups) file
  local reader=("${nobody[@]}" --inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
  as_user=("${nobody[@]}")
  for file in "$@"; do
    "${as_user[@]}" test -r "$file" || as_user=("${reader[@]}")
    "${as_user[@]}" test -r "$file" || { echo "root cannot become a user that may read $file: skipped"; exit 77; }
  done
  as_user+=(env HOME="${scratch:?}")
  echo "user: $("${as_user[@]}" id -un)"
}
