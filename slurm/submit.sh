# What the drivers in this folder share; sourced by them on a login node. They submit GRAPHLORA_SCRIPT, by default
# train.sbatch beside them; a script that `graphlora slurm --site FILE --dry-run` wrote serves as well.
# shellcheck shell=bash

say() { echo "${0##*/}: $*" >&2; }
die() {
  say "error: $*"
  exit 2
}
# require_number VARIABLE: stops unless it is a number from 1 on.
require_number() { [[ ${!1} =~ ^[1-9][0-9]{0,8}$ ]] || die "$1='${!1}': must be a number from 1 on"; }
# quoted WORD: as split in train.sbatch reads it back.
quoted() {
  [[ $1 != *$'\n'* ]] || die "a name with a line break: $1"
  printf '%q' "$1"
}

script=${GRAPHLORA_SCRIPT:-$(dirname "${BASH_SOURCE[0]}")/train.sbatch}
[[ -r $script ]] || die "GRAPHLORA_SCRIPT: there is no $script"
command -v sbatch >/dev/null || die "there is no sbatch here: run this on a login node of a Slurm cluster"

job=''
# submit NAME OPTION…: submits the script with GRAPHLORA_… as they are; its number goes to `job`.
submit() {
  local name=$1
  shift
  job=$(sbatch --parsable --export=ALL --job-name="$name" "$@" "$script") || die "sbatch refused $name (above)"
  job=${job%%;*}
  say "$name is job $job"
}
