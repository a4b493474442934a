#!/usr/bin/env bash
# Times `secrets sops …` beside stock `sops` on the same command lines in one run, and prints a Markdown
# table: medians, and how many times longer the stock program takes.
#
#   benches/dropin.sh [--runs N] BINARY
#
# Needs sops and age-keygen. Works in /dev/shm. The sides take turns, after one uncounted run of each.
set -euo pipefail
export LC_ALL=C # EPOCHREALTIME and numbers with a point

runs=5 binary=''
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=${2:?}; shift ;;
    -*) sed -n '5p' "$0" | sed 's/^#  */usage: /' >&2; exit 2 ;;
    *) binary=$1 ;;
  esac
  shift
done
[ -x "$binary" ] || { sed -n '5p' "$0" | sed 's/^#  */usage: /' >&2; exit 2; }
for program in sops age-keygen; do
  command -v "$program" >/dev/null || { echo "error: $program is not installed" >&2; exit 1; }
done
stock=$(command -v sops)

work=$(mktemp -d /dev/shm/secrets-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/bin"
cp "$binary" "$work/bin/sops" # by its name it takes stock's command line
ours=$work/bin/sops

unset "${!SOPS_@}" # nothing of the user's own
export SOPS_AGE_KEY_FILE=$work/key SOPS_DISABLE_VERSION_CHECK=true
age-keygen -o "$work/key" 2>/dev/null
age-keygen -o "$work/second" 2>/dev/null
recipient=$(age-keygen -y "$work/key") second=$(age-keygen -y "$work/second")
printf 'creation_rules:\n  - age: %s\n' "$recipient" >"$work/.sops.yaml"
cd "$work"

# ---- what is worked on ----------------------------------------------------------------------

# Prints mappings of a hundred values each.
tree() { # format, values
  local format=$1 count=$2
  awk -v format="$format" -v count="$count" 'BEGIN {
    if (format == "json") print "{"
    for (i = 0; i < count; i += 100) {
      printf format == "json" ? "  \"s%d\": {\n" : "s%d:\n", i
      for (j = 0; j < 100; j++)
        if (format == "json") printf "    \"k%d\": \"value-%d\"%s\n", j, i * j, j < 99 ? "," : ""
        else printf "  k%d: value-%d\n", j, i * j
      if (format == "json") print i + 100 < count ? "  }," : "  }"
    }
    if (format == "json") print "}"
  }'
}
printf 'user: app\npassword: hunter2\nport: 5432\n' >one.yaml
"$stock" encrypt one.yaml >one.enc.yaml
for format in yaml json; do
  tree "$format" 10000 >"big.$format"
  "$stock" encrypt --age "$recipient" "big.$format" >"big.enc.$format"
done
for number in {1..100}; do
  cp one.enc.yaml "many$number.yaml"
done

# ---- times ----------------------------------------------------------------------------------

# Milliseconds of one run.
once() {
  local before=$EPOCHREALTIME
  "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; echo "error: $*" >&2; exit 1; }
  local after=$EPOCHREALTIME
  echo $(((${after/./} - ${before/./}))) | awk '{ printf "%.2f\n", $1 / 1000 }'
}
median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

row() { # name, what is done before each run, command line
  local name=$1 before=$2 mine=() theirs=() number
  shift 2
  for number in $(seq 0 "$runs"); do
    $before; local one; one=$(once "$ours" "$@")
    $before; local other; other=$(once "$stock" "$@")
    [ "$number" = 0 ] || { mine+=("$one"); theirs+=("$other"); }
  done
  local ours_ms stock_ms
  ours_ms=$(printf '%s\n' "${mine[@]}" | median) stock_ms=$(printf '%s\n' "${theirs[@]}" | median)
  awk -v name="$name" -v ours="$ours_ms" -v stock="$stock_ms" \
    'BEGIN { printf "| %s | %.1f ms | %.1f ms | %.1f × |\n", name, ours, stock, stock / ours }'
}
# Another rule than that of the files, so that all keys are wrapped anew.
other_rule() {
  local number
  for number in {1..100}; do cp one.enc.yaml "many$number.yaml"; done
  printf 'creation_rules:\n  - age: %s,%s\n' "$recipient" "$second" >"$work/.sops.yaml"
}

echo '| work | secrets | sops | sops ÷ secrets |'
echo '| --- | ---: | ---: | ---: |'
row 'start (`--version`)' true --version
row 'one small YAML file, `encrypt`' true encrypt --age "$recipient" one.yaml
row 'one small YAML file, `decrypt`' true decrypt one.enc.yaml
row 'one value of it, `decrypt --extract`' true decrypt --extract '["password"]' one.enc.yaml
row '`exec-env` of it' true exec-env one.enc.yaml true
row 'YAML of 10,000 values, `encrypt`' true encrypt --age "$recipient" big.yaml
row 'YAML of 10,000 values, `decrypt`' true decrypt big.enc.yaml
row 'JSON of 10,000 values, `encrypt`' true encrypt --age "$recipient" big.json
row 'JSON of 10,000 values, `decrypt`' true decrypt big.enc.json
row '100 small files, `updatekeys`, in one call' other_rule updatekeys --yes many{1..100}.yaml
