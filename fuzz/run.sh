#!/usr/bin/env bash
# Coverage-guided fuzzing with the stable toolchain. Needs a C++ compiler for libFuzzer.
#
#   fuzz/run.sh SECONDS [TARGET...]   fuzzes each target (all of `targets.rs` unless named) for so long
#   fuzz/run.sh pack [TARGET...]      brings what was found into tests/fixtures/fuzz, the shortest of those that cover all
#
# The inputs live in SECRETS_FUZZ_CACHE (~/.cache/secret-files-fuzz unless set), begun with those of
# tests/fixtures/fuzz; inputs that fail are left in its folder `failures`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

cache=${SECRETS_FUZZ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/secret-files-fuzz}
export CARGO_TARGET_DIR="$cache/target"
coverage=(inline-8bit-counters pc-table trace-compares)
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Ccodegen-units=1"
for kind in "${coverage[@]}"; do flags+=" -Cllvm-args=-sanitizer-coverage-$kind"; done
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$flags cargo build --quiet --locked --release --target "$triple"
program=$CARGO_TARGET_DIR/$triple/release/parsers

packed=../tests/fixtures/fuzz
action=${1:?how many seconds, or pack}
shift
if [ $# -eq 0 ]; then
  mapfile -t names < <(sed -n 's/^ *name: "\(.*\)",$/\1/p' targets.rs)
  set -- "${names[@]}"
fi

# One input a line, base64.
unpack() {
  mkdir -p "$cache/corpus/$1" "$cache/failures/$1"
  [ -e "$packed/$1.txt" ] || return 0
  while read -r line; do
    file=$(printf %s "$line" | sha1sum | cut -c1-40)
    printf %s "$line" | base64 -d >"$cache/corpus/$1/$file"
  done <"$packed/$1.txt"
}

pack() {
  local least=$cache/least
  rm -rf "$least"
  mkdir -p "$least" "$packed"
  SECRETS_FUZZ_TARGET=$1 "$program" -merge=1 -max_len=2048 "$least" "$cache/corpus/$1" 2>/dev/null
  find "$least" -type f -print0 | while IFS= read -r -d '' file; do
    base64 -w0 "$file"
    echo
  done | awk '{ print length, $0 }' | sort -n | head -n 150 | cut -d' ' -f2- | awk NF | sort -u >"$packed/$1.txt"
}

for name; do
  unpack "$name"
  if [ "$action" = pack ]; then
    pack "$name"
    echo "$name: $(wc -l <"$packed/$name.txt") inputs"
    continue
  fi
  SECRETS_FUZZ_TARGET=$name "$program" -fork=1 -ignore_crashes=1 -ignore_timeouts=1 -ignore_ooms=1 \
    -max_total_time="$action" -timeout=10 -rss_limit_mb=2048 -max_len=16384 \
    -artifact_prefix="$cache/failures/$name/" "$cache/corpus/$name" >"$cache/$name.log" 2>&1 || true
  echo "$name: $(find "$cache/failures/$name" -type f | wc -l) failures, $(tail -1 "$cache/$name.log")"
done
