#!/usr/bin/env bash
# The main job, from a signed Nix cache to a restored one, with losses on the way.
#
# usage: run.sh DIRECTORY_OF_PROGRAMS
# environment: FIRN_DEMO_DIR (default ./demo-archive; emptied first), FIRN_DEMO_PORT (default 8484)
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
bin=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
dir=${FIRN_DEMO_DIR:-$PWD/demo-archive}
port=${FIRN_DEMO_PORT:-8484}
url=http://127.0.0.1:$port
started=$SECONDS
archive_pid=

if [ -e "$dir" ] && [ ! -e "$dir/made-by-demo" ]; then
  echo "$dir exists and is not a demo's: move it away or set FIRN_DEMO_DIR" >&2; exit 1
fi
cleanup() {
  if [ -n "$archive_pid" ]; then kill "$archive_pid" 2>/dev/null || true; wait "$archive_pid" 2>/dev/null || true; fi
}
trap cleanup EXIT
chmod -R u+w "$dir" 2>/dev/null || true
rm -rf "$dir"; mkdir -p "$dir"; : > "$dir/made-by-demo"

step() { printf '\n\033[1m%3ds  %s\033[0m\n' $((SECONDS - started)) "$*"; }
say() { printf '      %s\n' "$*"; }
firn() { FIRN_CONFIG=$dir/archive/firn.toml "$bin/firn" "$@"; }
json() { # FILTER: reads JSON on standard input; python3 is on every Debian
  python3 -c "import json,sys; d=json.load(sys.stdin); print($1)"
}
status() { firn status --json | json "$1"; }
field() { sed -n "s/^$1: //p" "$2"; }
unpack() { case $(field Compression "$1") in xz) xz -dc "$2" ;; zstd) zstd -qdc "$2" ;; *) cat "$2" ;; esac; }
# Waits with a bar on a terminal, then says in one line how the archive stands.
until_status() {
  firn status "$@" > /dev/null
  # A leader that has not heard most nodes yet gives no figures on bundles.
  say "$(status "'%d nodes online' % sum(n['online'] for n in d['nodes'].values()) + (d['health'] and ', %d of %d bundles full, %d unreadable' % (d['health']['full'], d['bundles'], d['health']['unreadable']) or '')")"
}
local_role() { "$bin/firn-local" "$@" --dir "$dir/archive" > "$dir/local.out" 2>&1 || { cat "$dir/local.out" >&2; exit 1; }; }

step "A signed Nix binary cache"
nix=
if command -v nix > /dev/null && "$here/make-cache.sh" "$dir/source" 2> "$dir/make-cache.log"; then nix=1; else
  say "Nix cannot build here: taking the small signed cache that lies in the repository"
  chmod -R u+w "$dir/source" 2>/dev/null || true
  rm -rf "$dir/source"; cp -r "$here/fallback-cache" "$dir/source"
fi
key=$(cat "$dir/source/key.pub")
paths=$(find "$dir/source/cache" -maxdepth 1 -name '*.narinfo' | wc -l)
bytes_in=$(du -sb "$dir/source/cache/nar" | cut -f1)
say "$paths signed store paths, $((bytes_in / 1000000)) MB as the cache stores them; key ${key%%:*}"

step "An archive on this machine: 3 coordinators, 16 storage nodes, a gateway"
"$bin/firn-local" up --dir "$dir/archive" --coordinators 3 --storage-nodes 16 --gateway "127.0.0.1:$port" \
  --publisher "$key" > "$dir/archive.log" 2>&1 &
archive_pid=$!
for _ in $(seq 300); do
  [ ! -e "$dir/archive/ready" ] || break
  kill -0 "$archive_pid" 2>/dev/null || { tail -n 5 "$dir/archive.log" >&2; exit 1; }
  sleep 0.1
done
[ -e "$dir/archive/ready" ] || { echo "the archive did not start within 30 s: see $dir/archive.log" >&2; exit 1; }
say "scheme $(status "'%d of %d shards restore a bundle' % (d['scheme']['k'], d['scheme']['n'])")"

step "Publish the cache"
firn publish "$dir/source/cache" --bundle-size 8MiB
stored=$(status "d['stored']")

fetch() { # NAME: everything, by the unmodified Nix client or by its protocol
  if [ -n "$nix" ]; then
    mkdir -p "$dir/home-$1"
    HOME=$dir/home-$1 XDG_CACHE_HOME=$dir/home-$1/cache NIX_REMOTE='' NIX_CONFIG="
experimental-features = nix-command
substituters =
require-sigs = true
trusted-public-keys = $key
" xargs nix copy --from "$url" --to "local?root=$dir/store-$1" < "$dir/source/paths.txt" 2> "$dir/nix-$1.log" ||
      { tail -n 5 "$dir/nix-$1.log" >&2; exit 1; }
    fetched=$(find "$dir/store-$1/nix/store" -mindepth 1 -maxdepth 1 -not -name .links | wc -l)
    say "nix copy --from $url: $fetched store paths, every signature and hash checked by Nix"
  else
    fetched=0
    for info in "$dir"/source/cache/*.narinfo; do
      name=$(basename "$info" .narinfo)
      nar=$(curl -sSf "$url/$name.narinfo" | sed -n 's/^URL: //p')
      curl -sSf "$url/$nar" | cmp - <(unpack "$info" "$dir/source/cache/$(field URL "$info")")
      fetched=$((fetched + 1))
    done
    say "$fetched NARs fetched by HTTP, every byte compared"
  fi
  [ "$fetched" -eq "$paths" ] || { echo "only $fetched of $paths paths came back" >&2; exit 1; }
}
step "Fetch the closure into an empty store"
fetch first

step "Kill 8 storage nodes and the leading coordinator, and fetch everything again"
leader=$(status "next('coordinator-%d' % (i + 1) for i, c in enumerate(d['coordinators']) if c['leader'])")
for n in 1 2 3 4 5 6 7 8; do local_role stop "storage-node-$n"; done
local_role stop "$leader"
# A new gateway has nothing in its memory: what it serves now comes from the 8 nodes that are left.
local_role stop gateway
local_role start gateway
say "stopped storage-node-1 to storage-node-8 and $leader; restarted the gateway"
fetch second
# A node counts as online until it was silent for 10 s.
for _ in $(seq 60); do
  online=$(status "sum(n['online'] for n in d['nodes'].values())")
  [ "$online" -gt 8 ] || break
  sleep 0.5
done
say "the coordinators hear $online nodes"

step "Start $leader and 5 of the nodes again: their shards count again"
local_role start "$leader"
for n in 1 2 3 4 5; do local_role start "storage-node-$n"; done
until_status --until-nodes 13 --timeout 60s

step "Declare the other 3 lost: the 13 restore full redundancy"
for n in 6 7 8; do
  id=$("$bin/firn-storage-node" id --data-dir "$dir/archive/storage-node-$n")
  "$bin/firn-coordinator" node remove --lost "$id" --data-dir "$dir/archive/$leader" > /dev/null
done
until_status --until full --timeout 60s
say "repair traffic: $(status "'%.1f MB' % (d['repair_traffic'] / 1e6)")"

step "Add 4 nodes and drain one: shards move"
for _ in 1 2 3 4; do local_role add storage-node; done
drained=$("$bin/firn-storage-node" id --data-dir "$dir/archive/storage-node-9")
before=$(firn node list --json | json "next(n['shards'] for n in d if n['node'] == '$drained')")
"$bin/firn-coordinator" node drain "$drained" --data-dir "$dir/archive/$leader" > /dev/null
until_status --until drained --timeout 60s
say "storage-node-9 held $before shards, now $(firn node list --json | json "next(n['shards'] for n in d if n['node'] == '$drained')"); the new nodes hold $(firn node list --json | json "sum(n['shards'] for n in sorted(d, key=lambda n: n['joined_at'])[-4:])")"

step "Restore the cache from bare shard files, without any coordinator"
firn recover "$dir"/archive/storage-node-*/shards --output "$dir/recovered"
same=0 differ=0
for info in "$dir"/source/cache/*.narinfo; do
  name=$(basename "$info")
  if [ -e "$dir/recovered/$name" ] && cmp -s \
    <(unpack "$info" "$dir/source/cache/$(field URL "$info")") \
    <(unpack "$dir/recovered/$name" "$dir/recovered/$(field URL "$dir/recovered/$name")"); then
    same=$((same + 1)); else differ=$((differ + 1)); echo "differs: $name" >&2; fi
done
say "$same of $paths NARs are byte for byte those of the source"
unreadable=$(firn verify --all --json | json "d['unreadable']")

printf '\n'
printf '  %-34s %12s\n' \
  "store paths published" "$paths" \
  "bytes in (compressed as published)" "$(numfmt --to=si "$bytes_in")" \
  "bytes stored (all redundancy)" "$(numfmt --to=si "$stored")" \
  "storage nodes killed / lost for good" "8 / 3" \
  "paths unreadable" "$unreadable" \
  "NARs that differ after recovery" "$differ" \
  "seconds" "$((SECONDS - started))"
[ "$unreadable" = 0 ] && [ "$differ" = 0 ] || exit 1
cat <<TXT

Keep the archive running:   $bin/firn-local up --dir $dir/archive --gateway 127.0.0.1:$port
Then let any Nix read it:   nix copy --from $url --to 'local?root=/tmp/store' $(head -n 1 "$dir/source/paths.txt" 2>/dev/null || true)
TXT
