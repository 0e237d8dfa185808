#!/usr/bin/env bash
# Measures the erasure code beside Intel ISA-L and klauspost/reedsolomon (Go) on this machine, in one run, on the same
# input with the same coefficients, and prints a table for each operation. A parity that differs ends it.
#
# usage: run.sh [WORK_DIRECTORY [BACKEND]]
# Everything goes into WORK_DIRECTORY (default: a temporary one, removed at the end); nothing is installed. The peers
# are Debian's packages, the newest that the configured mirror has and that run here. BACKEND is one of ours, by its
# name. Needs apt, cargo, a C compiler and taskset. Environment: ROUNDS (3), CORE (the last one).
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;; esac
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
golden=$repository/crates/erasure/tests/golden
if [ $# -ge 1 ]; then
  mkdir -p "$1"; work=$(cd "$1" && pwd)
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
backend=("${@:2}")
rounds=${ROUNDS:-3} cores=$(nproc)
core=${CORE:-$((cores - 1))}
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
# Newest first. Debian 13 and older have a klauspost/reedsolomon without GFNI.
suites=(testing trixie "$release")

# The configured sources of this release's main archive, with another suite.
sources() { # SUITE
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$file" ] || awk -v RS= -v ORS='\n\n' -v suite="$1" -v release="$release" '
      $0 ~ "\nSuites:[^\n]* *" release "( |\n|$)" && !done++ {gsub(/Suites:[^\n]*/, "Suites: " suite); print}' "$file"
  done
}
in_suite() { # SUITE COMMAND ARGUMENT...: an apt command with lists of its own.
  local state=$work/apt/$1 command=$2
  if [ ! -e "$state/status" ]; then
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    sources "$1" > "$state/suite.sources"
    [ -s "$state/suite.sources" ] ||
      sed -n "s/^\(deb .*\) $release main.*/\1 $1 main/p" /etc/apt/sources.list > "$state/suite.list"
    : > "$state/status"
    in_suite "$1" apt-get update >&2
  fi
  local list=$state/suite.sources
  [ -s "$list" ] || list=$state/suite.list
  "$command" -o "Dir::Etc::SourceList=$list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State=$state" \
    -o "Dir::State::status=$state/status" -o "Dir::Cache=$state" -o APT::Sandbox::User=root "${@:3}"
}
depended() { # SUITE PACKAGE: the package and all that it depends on.
  in_suite "$1" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$2" | grep '^[a-z]'
}
unpack() { # SUITE DIRECTORY PACKAGE...
  local package
  rm -rf "$2" && mkdir -p "$2/packages" &&
    (cd "$2/packages" && in_suite "$1" apt-get download "${@:3}") || return
  for package in "$2"/packages/*.deb; do dpkg-deb -x "$package" "$2" || return; done
}
version() { dpkg-deb -f "$1"/packages/"$2"_*.deb Version; }

get_isal() { # SUITE
  local root=$work/isal library packages
  mapfile -t packages < <(depended "$1" libisal-dev | grep '^libisal')
  unpack "$1" "$root" "${packages[@]}" || return
  library=$(dirname "$(find "$root/usr/lib" -name 'libisal.so' -o -name 'libisal.a' | head -n 1)")
  "${CC:-cc}" -std=c11 -O2 -Wall -Wextra -I "$root/usr/include" -o "$work/isal-speed" "$here/isal.c" \
    -L "$library" -Wl,-rpath,"$library" -lisal &&
    "$work/isal-speed" "$golden" 2 65536 &&
    isal_version=$(version "$root" libisal-dev)
}
get_klauspost() { # SUITE
  local root=$work/klauspost go packages
  mapfile -t packages < <(depended "$1" golang-github-klauspost-reedsolomon-dev | grep '^golang-')
  go=$(in_suite "$1" apt-cache depends golang-go | sed -n 's/.* Depends: \(golang-[0-9.]*\)-go$/\1/p') &&
    unpack "$1" "$root" "$go-go" "$go-src" "${packages[@]}" || return
  go=$root/usr/lib/${go/golang/go}
  env -C "$here" GOROOT="$go" GOPATH="$root/usr/share/gocode" GOCACHE="$work/go-cache" GO111MODULE=off \
    GOTOOLCHAIN=local GOFLAGS='' CGO_ENABLED=0 "$go/bin/go" build -o "$work/klauspost-speed" klauspost.go &&
    "$work/klauspost-speed" 2 6 65536 1 &&
    klauspost_version=$(version "$root" golang-github-klauspost-reedsolomon-dev)
}
get() { # PEER NAME
  local suite
  for suite in "${suites[@]}"; do
    echo "== $1 of $suite"
    if "get_$1" "$suite"; then return; fi
  done >> "$work/get.log" 2>&1
  echo "$2 cannot be had here and is left out; the last word was: $(tail -n 1 "$work/get.log")"
}
isal_version='' klauspost_version=''
get isal 'Intel ISA-L'
get klauspost 'klauspost/reedsolomon'
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}
cargo build --quiet --release --locked --manifest-path "$repository/Cargo.toml" -p firn-benches --example erasure_speed
ours=$CARGO_TARGET_DIR/release/examples/erasure_speed

# A line of a program's output, after its name and the round: see ../examples/erasure_speed.rs.
log=$work/figures
: > "$log"
run() { # NAME COMMAND...
  local name=$1 cpus=$core
  [ "$threads" = 1 ] || cpus=0,1
  taskset -c "$cpus" "${@:2}" > "$work/output"
  sed "s/^/$name $round /" "$work/output" >> "$log"
  awk '$3 == "sum" {
    code = $4 " of " $5 ", " $6 " bytes"
    if (code in sums && sums[code] != $7) {print $1 ": another parity for " code > "/dev/stderr"; exit 1}
    sums[code] = $7
  }' "$log"
}
load=$(cut -d' ' -f1 /proc/loadavg)
for round in $(seq "$rounds"); do
  for scheme in 2/6 4/12 8/24 16/40; do
    k=${scheme%/*} n=${scheme#*/}
    for bytes in $((64 << 10)) $((1 << 20)) $((16 << 20)); do
      for threads in 1 2; do
        if [ "$threads" = 2 ] && { [ "$cores" -lt 2 ] || [ "$bytes" -lt $((1 << 20)) ]; }; then continue; fi
        run ours "$ours" "$k" "$bytes" "$threads" "${backend[@]}"
        [ -z "$isal_version" ] || [ "$threads" = 2 ] || run isal "$work/isal-speed" "$golden" "$k" "$bytes"
        [ -z "$klauspost_version" ] || run klauspost "$work/klauspost-speed" "$k" "$n" "$bytes" "$threads"
      done
    done
  done
done

with() { awk -v name="$1" '$1 == name && $3 == "with" {sub(/^[^ ]* [^ ]* with /, ""); print; exit}' "$log"; }
echo "$cores cores, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ //'), $(date -u +%F)," \
  "load $load before and $(cut -d' ' -f1 /proc/loadavg) at the end, of which 1 is ours."
echo "Ours: $(with ours)."
[ -z "$isal_version" ] || echo "ISA-L $isal_version: $(with isal)."
[ -z "$klauspost_version" ] || echo "klauspost/reedsolomon $klauspost_version: may use $(with klauspost)."
echo "All parity is the same. GB/s of data, k × shard bytes for each pass: the best sample (and the median one) of" \
  "$rounds runs of each program."

awk -v isal="$isal_version" -v klauspost="$klauspost_version" '
function median(list,    values, count, i, j, value) {
  count = split(list, values, " ")
  for (i = 2; i <= count; i++) {
    value = values[i] + 0
    for (j = i - 1; j > 0 && values[j] + 0 > value; j--) values[j + 1] = values[j]
    values[j + 1] = value
  }
  return values[int((count + 1) / 2)]
}
function shown(key) {return key in best ? sprintf("%.1f (%.1f)", best[key], middle[key]) : "–"}
function size(bytes) {return bytes < 1048576 ? bytes / 1024 " KiB" : bytes / 1048576 " MiB"}
$3 == "rate" {
  # Whoever calls ISA-L for tiles is another peer, beside those who call it as it is; other variants are for the best.
  name = $9 ~ /-tiled$/ ? $1 "-tiled" : $1
  key = name " " $4 " " $5 " " $7 " " $8; variant = key " " $9
  if (!(variant in medians)) {variants[key] = variants[key] "|" $9}
  if ($10 + 0 > tops[variant]) tops[variant] = $10 + 0
  medians[variant] = medians[variant] " " $11
  row = $5 "/" $6 ", " size($7)
  if (!(row in rows)) {rows[row] = $5 " " $7; order[++row_count] = row}
}
END {
  for (key in variants) {
    count = split(substr(variants[key], 2), names, "|")
    for (i = 1; i <= count; i++) if (tops[key " " names[i]] > best[key]) {
      best[key] = tops[key " " names[i]]; middle[key] = median(medians[key " " names[i]])
    }
  }
  operation_count = split("encode one-data one-parity half-of-parity as-much-as-parity", operations, " ")
  titles["encode"] = "Encode all parity"; titles["one-data"] = "Rebuild one data shard"
  titles["one-parity"] = "Rebuild one parity shard"; titles["half-of-parity"] = "Rebuild (n − k) / 2 shards"
  titles["as-much-as-parity"] = "Rebuild n − k shards"
  for (o = 1; o <= operation_count; o++) {
    operation = operations[o]
    head = "| " titles[operation] " | ours |"; line = "| --- | --- |"
    if (isal != "") {head = head " ISA-L " isal " | ISA-L in tiles of 32 KiB |"; line = line " --- | --- |"}
    if (klauspost != "") {head = head " klauspost " klauspost " |"; line = line " --- |"}
    head = head " memcpy | ours ÷ fastest peer |"; line = line " --- | --- |"
    if (operation == "encode") {
      head = head " ours, 2 threads |"; line = line " --- |"
      if (klauspost != "") {head = head " klauspost, 2 threads |"; line = line " --- |"}
    }
    print "\n" head "\n" line
    for (r = 1; r <= row_count; r++) {
      place = " " operation " " rows[order[r]] " "; fastest = 0
      cells = "| " order[r] " | " shown("ours" place 1) " |"
      peer_count = split((isal != "" ? "isal isal-tiled" : "") (klauspost != "" ? " klauspost" : ""), peers, " ")
      for (p = 1; p <= peer_count; p++) {
        key = peers[p] place 1
        cells = cells " " shown(key) " |"
        if (best[key] > fastest) fastest = best[key]
      }
      cells = cells " " shown("ours copy " rows[order[r]] " 1") " | "
      cells = cells (fastest > 0 ? sprintf("%.2f", best["ours" place 1] / fastest) : "–") " |"
      if (operation == "encode") {
        cells = cells " " shown("ours" place 2) " |"
        if (klauspost != "") cells = cells " " shown("klauspost" place 2) " |"
      }
      print cells
    }
  }
}' "$log"
