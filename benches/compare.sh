#!/usr/bin/env bash
# Times `secrets` beside stock `sops` (and `age`) on the same work in one run, and prints a
# Markdown table: medians, and how many times longer the stock program takes.
#
#   benches/compare.sh [--runs N] [--big-runs N] [--disk FOLDER] [--quick] BINARY
#
#   --runs N        counted runs of each side (5)
#   --big-runs N    the same for the 256 MiB file, for which stock needs long and gigabytes (1)
#   --disk FOLDER   a folder on a real disk (/var/tmp)
#   --quick         a tenth of the data and 3 runs, to see that it all works
#
# Needs sops, age, age-keygen and git; GNU time or perl for the memory. Takes about 3 GiB in FOLDER
# and in /dev/shm. Each case is measured in both: on the disk `secrets` waits for it (it syncs what
# it writes; sops and age do not), in /dev/shm that costs nothing.
#
# The sides take turns, after one uncounted run of each whose result is compared byte for byte.
# Before each run the state and the output of that side are removed and the file system is synced,
# so that no side pays for what another one wrote.
set -euo pipefail
export LC_ALL=C # EPOCHREALTIME and numbers with a point

runs='' big_runs=1 disk=/var/tmp quick='' binary=''
usage() { sed -n '5p' "$0" | sed 's/^#  */usage: /' >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=${2:?}; shift ;;
    --big-runs) big_runs=${2:?}; shift ;;
    --disk) disk=${2:?}; shift ;;
    --quick) quick=1 ;;
    -*) usage ;;
    *) binary=$1 ;;
  esac
  shift
done
[ -x "$binary" ] || usage
for program in sops age age-keygen git; do
  command -v "$program" >/dev/null || { echo "error: $program is not installed" >&2; exit 1; }
done
binary=$(realpath "$binary")
if [ -n "$quick" ]; then
  runs=${runs:-3} file_count=100 key_count=1000 blob_mib=16
else
  runs=${runs:-5} file_count=1000 key_count=10000 blob_mib=256
fi

work=$(mktemp -d "$disk/secrets-bench.XXXXXX")
shm=$(mktemp -d /dev/shm/secrets-bench.XXXXXX)
trap 'rm -rf "$work" "$shm"' EXIT
trap 'exit 130' INT TERM

die() { echo "error: $*" >&2; exit 1; }

unset "${!SOPS_@}" # nothing of the user's own
export SOPS_AGE_KEY_FILE=$work/key SOPS_DISABLE_VERSION_CHECK=true
export SECRETS_STATE_DIR=$work/state
age-keygen -o "$SOPS_AGE_KEY_FILE" 2>/dev/null
recipient=$(age-keygen -y "$SOPS_AGE_KEY_FILE")

# ---- peak memory ----------------------------------------------------------------------------

# `"${peak[@]}" COMMAND` adds the command's peak memory in KiB as a line to $work/peak.
if gnu_time=$(type -P time) && "$gnu_time" -f %M true >/dev/null 2>&1; then
  with_peak=("$gnu_time" -f %M -a -o "$work/peak")
else
  # VmHWM, looked at every millisecond: a program that is done sooner is not seen.
  # shellcheck disable=SC2016  # Perl's variables
  with_peak=(perl -e '
    my $out = shift; my $peak = 0;
    my $pid = fork // die; if (!$pid) { exec @ARGV or die }
    while (waitpid($pid, 1) == 0) {
      if (open my $f, "<", "/proc/$pid/status") { /^VmHWM:\s+(\d+)/ and $peak = $1 for <$f> }
      select undef, undef, undef, 0.001;
    }
    my $status = $?; open my $f, ">>", $out or die; print $f "$peak\n"; exit($status ? 1 : 0)
    ' "$work/peak")
fi
peak=()

# ---- the sides ------------------------------------------------------------------------------

# A case is a folder $dir with plain/, repo/ (manifest, .sops.yaml and, for decrypting, what sops
# made), age/ and out/SIDE/; the files are in `names`, their sops formats in `types`.

secrets_() { "${peak[@]}" "$binary" -m "$dir/repo/secret-files.toml" -i "$SOPS_AGE_KEY_FILE" "$@"; }
secrets_decrypt() { secrets_ --root "$dir/out/secrets" decrypt; }
secrets_encrypt() { secrets_ --root "$dir/plain" encrypt; }

sops_decrypt() {
  local i type
  for i in "${!names[@]}"; do
    type=${types[i]}
    "${peak[@]}" sops decrypt --input-type "$type" --output-type "$type" \
      "$dir/repo/${names[i]}.enc" >"$dir/out/sops/${names[i]}" || return
  done
}
sops_encrypt() {
  local i type
  for i in "${!names[@]}"; do
    type=${types[i]}
    "${peak[@]}" sops encrypt --input-type "$type" --output-type "$type" \
      --filename-override "${names[i]}.enc" "$dir/plain/${names[i]}" \
      >"$dir/out/sops/${names[i]}.enc" || return
  done
}
age_decrypt() {
  local name
  for name in "${names[@]}"; do
    age -d -i "$SOPS_AGE_KEY_FILE" "$dir/age/$name.age" >"$dir/out/age/$name" || return
  done
}

readonly STARTS=20 # one start is too short for the clock
secrets_version() { start "$binary" --version; }
sops_version() { start sops --version --disable-version-check; }
age_version() { start age --version; }
start() { local i; for ((i = 0; i < STARTS; i++)); do "${peak[@]}" "$@" || return; done; }

# make_folders BELOW: those that the files of the case need.
make_folders() { (cd "$1" && dirname -- "${names[@]}" | sort -u | xargs mkdir -p --); }

# reset SIDE OPERATION: as if that side had never run.
reset() {
  rm -rf "$SECRETS_STATE_DIR" "$dir/out/$1"
  mkdir -p "$dir/out/$1"
  # `secrets` makes the folders of its files itself.
  [ "$1" = secrets ] || [ "$2" = version ] || make_folders "$dir/out/$1"
  [ "$1 $2" != "secrets encrypt" ] || (cd "$dir/repo" && rm -f -- "${names[@]/%/.enc}")
  sync -f "$dir"
}

# verify SIDE OPERATION: the results, byte for byte. What sops encrypted is decrypted and compared
# by the decrypting case that follows.
verify() {
  local i
  for i in "${!names[@]}"; do
    case "$1 $2" in
      *decrypt) cmp "$dir/plain/${names[i]}" "$dir/out/$1/${names[i]}" ;;
      "secrets encrypt")
        sops decrypt --input-type "${types[i]}" --output-type "${types[i]}" \
          "$dir/repo/${names[i]}.enc" | cmp "$dir/plain/${names[i]}" - ;;
    esac || die "$1 $2: wrong result for ${names[i]}"
  done
}

# ---- measuring ------------------------------------------------------------------------------

# once SIDE OPERATION: sets `took` (microseconds).
once() {
  local from
  reset "$1" "$2"
  from=${EPOCHREALTIME/./}
  "$1_$2" </dev/null >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "$1 $2 failed"; }
  took=$((${EPOCHREALTIME/./} - from))
}

median() { sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

# row LABEL UNIT DIVISOR DIGITS: one line of the table from $work/{secrets,sops,age}.
row() {
  local side cell line="| $where | $1 |" ours
  for side in secrets sops age; do
    if [ ! -s "$work/$side" ]; then
      line+=" | |"
      continue
    fi
    cell=$(median <"$work/$side")
    if [ "$side" = secrets ]; then
      ours=$cell
      line+=$(awk -v v="$cell" -v d="$3" -v n="$4" -v u="$2" 'BEGIN { printf " %.*f %s |", n, v / d, u }')
    else
      line+=$(awk -v v="$cell" -v d="$3" -v n="$4" -v u="$2" -v ours="$ours" 'BEGIN {
        printf " %.*f %s | ", n, v / d, u
        if (ours > 0) printf "%.1f × |", v / ours; else printf "|" }')
    fi
  done
  echo "$line"
}

# bench LABEL OPERATION RUNS SIDE...: warm-up and check, then the sides in turn, then a row.
bench() {
  local label=$1 operation=$2 count=$3 side i
  shift 3
  rm -f "$work"/{secrets,sops,age}
  for side in "$@"; do
    once "$side" "$operation"
    verify "$side" "$operation"
  done
  for ((i = 0; i < count; i++)); do
    for side in "$@"; do
      rm -f "$work/peak"
      once "$side" "$operation"
      echo "$took" >>"$work/$side"
      [ ! -e "$work/peak" ] || sort -n "$work/peak" | tail -n 1 >>"$work/$side.peak"
    done
  done
  case $operation in
    version) row "$label" ms $((STARTS * 1000)) 2 ;;
    *) row "$label" ms 1000 1 ;;
  esac
  [ ${#peak[@]} -gt 0 ] || return 0
  for side in secrets sops age; do
    rm -f "$work/$side"
    [ ! -e "$work/$side.peak" ] || mv "$work/$side.peak" "$work/$side"
  done
  row "$label, peak memory" MiB 1024 1
}

# ---- the cases ------------------------------------------------------------------------------

dotenv() { awk -v n="$1" -v seed="$RANDOM" 'BEGIN { srand(seed); for (i = 1; i <= n; i++)
  printf "KEY_%05d=%08x%08x%08x\n", i, rand() * 2^31, rand() * 2^31, rand() * 2^31 }'; }

# Trees of a hundred sections, in the layout that sops itself writes, so that both give the same bytes.
yaml() { awk -v n="$1" -v seed="$RANDOM" 'BEGIN { srand(seed); for (i = 0; i < 100; i++) {
  printf "section_%02d:\n", i; for (j = 0; j < n / 100; j++)
  printf "    key_%04d: v%08x%08x\n", j, rand() * 2^31, rand() * 2^31 } }'; }
json() { awk -v n="$1" -v seed="$RANDOM" 'BEGIN { srand(seed); printf "{"; for (i = 0; i < 100; i++) {
  printf "%s\n\t\"section_%02d\": {", (i ? "," : ""), i; for (j = 0; j < n / 100; j++)
  printf "%s\n\t\t\"key_%04d\": \"v%08x%08x\"", (j ? "," : ""), j, rand() * 2^31, rand() * 2^31
  printf "\n\t}" } printf "\n}\n" }'; }

# new_case NAME SIZE FILE...: plaintext of about SIZE bytes a file, and a repository that has none
# of it yet. The format follows the name as in `secrets`: dotenv for .env* and *.env, trees for *.yaml
# and *.json, else binary.
new_case() {
  local size=$2 i base
  dir=$area/$1
  shift 2
  names=("$@") types=()
  mkdir -p "$dir"/{plain,repo,age,out/sops}
  for i in plain repo age out/sops; do make_folders "$dir/$i"; done
  for i in "${!names[@]}"; do
    base=${names[i]##*/}
    case $base in
      .env* | *.env) types[i]=dotenv && dotenv "$((size / 32))" ;;
      *.yaml) types[i]=yaml && yaml "$((size / 32))" ;;
      *.json) types[i]=json && json "$((size / 32))" ;;
      *) types[i]=binary && head -c "$size" /dev/urandom ;;
    esac >"$dir/plain/${names[i]}"
  done
  cd "$dir/repo" # where sops looks for .sops.yaml
  printf 'creation_rules:\n  - age: %s\n' "$recipient" >.sops.yaml
  {
    printf 'version = 1\n\n[defaults]\nroot = "%s"\n\n[files]\n' "$dir/plain"
    for i in "${names[@]}"; do printf '"%s.enc" = "%s"\n' "$i" "$i"; done
  } >secret-files.toml
  git init -q
  # No compression: it would take longer than some of what is measured, and is no part of it.
  git config core.compression 0
  commit
}

commit() { git add -A && git -c user.name=bench -c user.email=bench@example.org commit -qm bench; }

# fill_repo: what sops made of the plaintext becomes the content of the repository.
fill_repo() {
  local name
  reset sops encrypt
  sops_encrypt || die "sops encrypt failed"
  cp -r "$dir/out/sops/." "$dir/repo"
  commit
}

age_files() {
  local name
  for name in "${names[@]}"; do age -r "$recipient" -o "$dir/age/$name.age" "$dir/plain/$name"; done
}

cases() {
  local i many=()

  new_case few 1600 web/.env web/.env.production web/tls.pem api/.env api/.env.local api/token \
    db/db.env db/ca.crt mail/mail.env mail/dkim.key ops/id_ed25519
  fill_repo
  age_files
  bench "${#names[@]} small files, decrypt" decrypt "$runs" secrets sops age
  rm -rf "$dir"

  for ((i = 0; i < file_count; i += 2)); do many+=("d$((i % 20))/f$i.env" "d$((i % 20))/f$i.bin"); done
  new_case many 400 "${many[@]}"
  fill_repo
  age_files
  bench "$file_count small files, decrypt" decrypt "$runs" secrets sops age
  rm -rf "$dir"

  new_case keys $((32 * key_count)) app.env
  bench "one dotenv of $key_count keys, encrypt" encrypt "$runs" secrets sops
  fill_repo
  bench "one dotenv of $key_count keys, decrypt" decrypt "$runs" secrets sops
  rm -rf "$dir"

  local kind
  for kind in yaml json; do
    new_case "$kind" $((32 * key_count)) "tree.$kind"
    bench "one tree of $key_count values, ${kind^^}, encrypt" encrypt "$runs" secrets sops
    fill_repo
    bench "one tree of $key_count values, ${kind^^}, decrypt" decrypt "$runs" secrets sops
    rm -rf "$dir"
  done

  peak=("${with_peak[@]}")
  new_case blob $((blob_mib << 20)) blob.bin
  bench "one binary of $blob_mib MiB, encrypt" encrypt "$big_runs" secrets sops
  fill_repo
  bench "one binary of $blob_mib MiB, decrypt" decrypt "$big_runs" secrets sops
  rm -rf "$dir"
  peak=()
}

echo "$("$binary" --version | head -n 1), $(sops --version | head -n 1), age $(age --version);" \
  "$(nproc) cores; medians of $runs run(s), of $big_runs for the binary of $blob_mib MiB."
echo
echo "| file system | work | secrets | sops | sops ÷ secrets | age | age ÷ secrets |"
echo "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
for area in "$work/cases" "$shm/cases"; do
  mkdir -p "$area"
  where=$(df --output=fstype "$area" | tail -n 1)
  cases
done

cd "$work"
where=- dir=$shm/cases names=()
bench "start (--version)" version "$runs" secrets sops age
# The times of this one are those of the program that measures, too: only its last row counts.
peak=("${with_peak[@]}")
bench "start (--version)" version 1 secrets sops age | tail -n 1
