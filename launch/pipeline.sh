# Steps shared by launch/quickstart and launch/quality; sourced by them, in the repository's root.
# shellcheck shell=bash
#
# GRAPHLORA_BUILT: leaves out set-up and build.

work=run/quickstart
ranks=${GRAPHLORA_RANKS:-2}
graphlora=build/release/graphlora
python=.venv/bin/python

say() { printf '\n== %s\n' "$*" >&2; }

# step NAME OUTPUT TIME INPUT… -- COMMAND…: runs a command unless OUTPUT was made by the same command
# from the same inputs. An INPUT is a file (its text counts) or another step's output (its stamp counts).
# A command that fails leaves its stamp "started", so that the same one continues and another starts anew.
step() {
  local name=$1 output=$2 time=$3 inputs=() input key stamp
  shift 3
  while [[ $1 != -- ]]; do
    inputs+=("$1")
    shift
  done
  shift
  key=$(
    {
      printf '%s\n' "$@"
      for input in "${inputs[@]}"; do
        if [[ -f $input ]]; then cat "$input"; else cat "$work/stamps/$(stamp_name "$input").done"; fi
      done
    } | sha256sum | cut -c1-16
  )
  mkdir -p "$work/stamps"
  stamp=$work/stamps/$(stamp_name "$output")
  if [[ -e $output && -e $stamp.done && $(<"$stamp.done") == "$key" ]]; then
    echo "-- $name: done before" >&2
    return
  fi
  say "$name ($time)"
  if [[ ! -e $stamp.started || $(<"$stamp.started") != "$key" ]]; then
    rm -rf "$output"
  fi
  rm -f "$stamp.done"
  echo "$key" >"$stamp.started"
  local rc=0
  "$@" || rc=$?
  if ((rc)); then
    if ((rc == 5)); then
      echo "Interrupted; the checkpoint is saved. Run the same command again to continue." >&2
    else
      echo "'$name' failed with exit code $rc. Run the same command again to continue;" \
        "launch/quickstart --fresh deletes run/quickstart and starts anew." >&2
    fi
    exit "$rc"
  fi
  mv "$stamp.started" "$stamp.done"
}

stamp_name() { echo "${1//\//_}"; }

# Set-up, build, model, data, dataset, shards and pretrained embeddings, in run/quickstart.
prepare_all() {
  if [[ -z ${GRAPHLORA_BUILT:-} ]]; then
    launch/setup
    say "build (some minutes the first time)"
    launch/build release graphlora_cli >&2
  fi
  # What an older version wrote may have another format.
  local version
  version=$($graphlora --version | sed -n '1{s/ (commit.*//;p}')
  mkdir -p $work/stamps
  [[ -e $work/stamps/version && $(<$work/stamps/version) == "$version" ]] || echo "$version" >$work/stamps/version
  step "SmolLM2-135M-Instruct" $work/model "20 s, 75 MB to download" launch/fetch_model.py -- \
    $python launch/fetch_model.py $work/model
  step "MovieLens-100K" $work/raw "5 s, 20 MB to download" launch/fetch_movielens.py -- \
    $python launch/fetch_movielens.py $work/raw
  step "dataset: labels, split by each user's time" $work/dataset "seconds" $work/stamps/version $work/raw -- \
    $graphlora prepare --input $work/raw --format movielens-100k --split user-time --output $work/dataset
  step "graph in $ranks METIS parts" "$work/dataset/partition-$ranks" "seconds" $work/dataset -- \
    $graphlora partition --data $work/dataset --parts "$ranks"
  step "matrix factorization of the user and item embeddings" $work/pretrained "5 s" $work/dataset -- \
    launch/mpirun -np "$ranks" $graphlora pretrain --data $work/dataset --output $work/pretrained
}

# train_variant NAME OUTPUT TIME CONFIG OPTION…
train_variant() {
  local name=$1 output=$2 time=$3 config=$4
  shift 4
  step "$name" "$output" "$time" "$config" $work/dataset $work/pretrained $work/model -- \
    launch/mpirun -np "$ranks" $graphlora train --config "$config" --data $work/dataset --model $work/model \
    --pretrained $work/pretrained --output "$output" --resume "$@"
}

# evaluate_variant NAME PREDICTIONS TIME ROWS CHECKPOINT: scores ROWS rows of the test split.
evaluate_variant() {
  step "$1" "$2" "$3" "$5" -- score "$2" --max-examples "$4" --checkpoint "$5" --model $work/model
}

# As evaluate_variant, for the embeddings alone.
evaluate_embeddings() {
  step "scores of the matrix factorization" "$1" "seconds" $work/pretrained -- \
    score "$1" --max-examples "$2" --pretrained $work/pretrained
}

score() {
  local predictions=$1
  shift
  mkdir -p "$(dirname "$predictions")"
  local report=${predictions%.csv}.json
  launch/mpirun -np "$ranks" $graphlora evaluate --data $work/dataset --split test --predictions "$predictions" "$@" \
    >"$report.tmp" || return
  mv "$report.tmp" "$report" || return
  cat "$report" >&2
}
