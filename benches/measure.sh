#!/usr/bin/env bash
# Measures the whole programs on this machine, and prints what RESULTS.md records. (A gateway beside nginx is measured by
# `benches/gateway`.)
#
# usage: measure.sh DIRECTORY_OF_PROGRAMS [WORK_DIRECTORY]
# Needs Nix and openssl besides what `make packages` installs.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
bin=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
work=${2:-$(mktemp -d)}
mkdir -p "$work"
archive_port=18484 gateway_port=18485
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap cleanup EXIT
now() { date +%s.%N; }
per() { awk -v n="$1" -v s="$2" -v e="$3" 'BEGIN {printf "%.1f", n / 1e6 / (e - s)}'; }
firn() { FIRN_CONFIG=$work/archive/firn.toml "$bin/firn" "$@"; }
row() { printf '| %-58s | %s |\n' "$1" "$2"; }
peak() { awk '/VmHWM/ {printf "%.0f MB", $2 / 1024}' "/proc/$1/status"; }

[ -e "$work/source/paths.txt" ] || "$here/../deploy/demo/make-cache.sh" "$work/source" > /dev/null
nar_bytes=$(awk '/^NarSize:/ {n += $2} END {print n}' "$work"/source/cache/*.narinfo)
if [ ! -e "$work/large/cache/nix-cache-info" ]; then
  mkdir -p "$work/large/cache" "$work/large/home"
  # One file of 1 GiB that nothing compresses.
  head -c 1G /dev/zero | openssl enc -aes-128-ctr -nosalt -pass pass:firn -pbkdf2 2>/dev/null > "$work/large/noise"
  (
    export HOME=$work/large/home NIX_REMOTE="local?root=$work/large/root"
    export NIX_CONFIG=$'experimental-features = nix-command\nsubstituters =\nbuild-users-group ='
    path=$(nix-store --add "$work/large/noise")
    nix-store --generate-binary-cache-key large-1 "$work/large/key.sec" "$work/large/key.pub"
    nix copy --no-check-sigs --to "file://$work/large/cache?compression=none&secret-key=$work/large/key.sec" "$path" 2>/dev/null
    echo "$path" > "$work/large/paths.txt"
  )
  chmod -R u+w "$work/large/root"; rm -rf "$work/large/root" "$work/large/noise"
fi

echo "$(nproc) cores, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ //'), load $(cut -d' ' -f1-3 /proc/loadavg), $(date -u +%F)"
"$bin/firn-local" up --dir "$work/archive" --coordinators 3 --storage-nodes 16 --gateway "127.0.0.1:$archive_port" \
  --publisher "$(cat "$work/source/key.pub")" --publisher "$(cat "$work/large/key.pub")" > "$work/archive.log" 2>&1 &
pids+=($!)
for _ in $(seq 600); do [ ! -e "$work/archive/ready" ] || break; sleep 0.1; done

row "what" "measured"
row "---" "---"
measured_publish() { # NAME SOURCE BYTES
  local s e
  s=$(now)
  FIRN_CONFIG=$work/archive/firn.toml /usr/bin/env bash -c 'TIMEFORMAT="%U %S"; time "$0" "$@"' "$bin/firn" publish "$2" > "$work/publish.out" 2> "$work/publish.err" &
  local pid=$! hwm=0 one
  while kill -0 "$pid" 2>/dev/null; do
    one=$(pgrep -f "firn publish $2" | xargs -I{} awk '/VmHWM/ {print $2}' /proc/{}/status 2>/dev/null | sort -n | tail -n 1 || true)
    [ "${one:-0}" -le "$hwm" ] || hwm=$one
    sleep 0.05
  done
  wait "$pid"; e=$(now)
  read -r user sys < <(tail -n 1 "$work/publish.err")
  row "publish $1, NAR MB/s" "$(per "$3" "$s" "$e")"
  row "publish $1, NAR MB per CPU second of the publisher" "$(awk -v n="$3" -v c="$user" -v d="$sys" 'BEGIN {printf "%.1f", n / 1e6 / (c + d)}')"
  row "publish $1, publisher's peak memory" "$((hwm / 1024)) MB"
}
measured_publish "52 paths of mixed compression" "$work/source/cache" "$nar_bytes"
measured_publish "a NAR of 1 GiB that nothing compresses" "$work/large/cache" $((1 << 30))

# A gateway of its own, so that its memory and start are its own.
"$bin/firn" gateway --archive "$work/archive/archive.firn" --listen "127.0.0.1:$gateway_port" > "$work/gateway.log" 2>&1 &
gateway=$!; pids+=("$gateway")
url=http://127.0.0.1:$gateway_port
for _ in $(seq 100); do ! curl -sf -o /dev/null "$url/readyz" || break; sleep 0.1; done
large=$(curl -sSf "$url/$(basename "$(head -n 1 "$work/large/paths.txt")" | cut -c1-32).narinfo" | sed -n 's/^URL: //p')
s=$(now); curl -sSf -o /dev/null "$url/$large"; e=$(now)
row "gateway, the NAR of 1 GiB, cold, MB/s" "$(per $((1 << 30)) "$s" "$e")"
row "gateway's peak memory after it" "$(peak "$gateway")"

# Three of sixteen nodes are lost.
field() { firn status --json | python3 -c "import json,sys; d=json.load(sys.stdin); print($1)"; }
leader=$(field "next('coordinator-%d' % (i + 1) for i, c in enumerate(d['coordinators']) if c['leader'])")
lost=0
for n in 3 9 14; do
  id=$("$bin/firn-storage-node" id --data-dir "$work/archive/storage-node-$n")
  shards=$(firn node list --json | python3 -c "import json,sys; print(next(n['shards'] for n in json.load(sys.stdin) if n['node'] == '$id'))")
  lost=$((lost + shards))
  "$bin/firn-local" stop "storage-node-$n" --dir "$work/archive" > /dev/null
  ids="${ids:-} $id"
done
lost_bytes=$(du -cb "$work"/archive/storage-node-{3,9,14}/shards | tail -n 1 | cut -f1)
s=$(now)
for id in $ids; do "$bin/firn-coordinator" node remove --lost "$id" --data-dir "$work/archive/$leader" > /dev/null; done
firn status --until full --timeout 300s > /dev/null 2>&1; e=$(now)
traffic=$(field "d['repair_traffic']")
row "losing 3 of 16 nodes: shards lost" "$lost ($((lost_bytes / 1000000)) MB)"
row "until every bundle is full again, s" "$(awk -v s="$s" -v e="$e" 'BEGIN {printf "%.1f", e - s}')"
row "bytes read and sent for it, per byte lost" "$(awk -v t="$traffic" -v l="$lost_bytes" 'BEGIN {printf "%.2f (%.0f MB)", t / l, t / 1e6}')"
