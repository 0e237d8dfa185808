#!/usr/bin/env bash
# Makes a genuine signed Nix binary cache from files of the packages that every Debian has.
#
# usage: make-cache.sh OUT
#
# Real Nix builds one store path for each package (its files, and references to the packages it depends
# on), signs it with a fresh key and exports it with its build log. Afterwards:
#   OUT/cache      the binary cache: most NARs as zstd, some as xz and some uncompressed
#   OUT/key.pub    the signing key, NAME:BASE64
#   OUT/paths.txt  every store path of the cache
#   OUT/roots.txt  the paths that nobody refers to: their closure is all of the cache
# The machine's files are only read; everything is built below OUT/store, which is removed at the end.
# FIRN_DEMO_EXPRESSION names another Nix expression to build, with its derivations in the attribute p.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
[ ! -e "$out/paths.txt" ] || { echo "$out holds a cache already" >&2; exit 1; }
work=$out/store
cleanup() { chmod -R u+w "$work" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
cleanup
mkdir -p "$work/root" "$work/lists" "$work/home"

packages="gcc-12-base gcc-14-base libc6 libgcc-s1 libcrypt1 libstdc++6 zlib1g libbz2-1.0 liblzma5 libzstd1 liblz4-1
  libacl1 libattr1 libpcre2-8-0 libselinux1 libtinfo6 libmd0 libaudit-common libaudit1 libcap2 libcap-ng0 libpam0g
  libuuid1 libblkid1 libmount1 libsmartcols1 libgmp10 libssl3 libdb5.3 libsystemd0 libudev1 ncurses-base ncurses-bin
  dash bash coreutils sed grep gzip tar diffutils findutils debianutils hostname util-linux perl-base dpkg
  libexpat1 libsqlite3-0 make file libmagic1 bzip2 xz-utils"
# Nix's own words for a version and a name are narrower than dpkg's.
plain() { sed 's/[^0-9A-Za-z+._?=-]/_/g; s/^\./_/' <<< "$1"; }

known=" "
if [ -n "${FIRN_DEMO_EXPRESSION:-}" ]; then cp "$FIRN_DEMO_EXPRESSION" "$work/default.nix"; else
{
  echo 'let mk = pname: version: deps: list: derivation {'
  echo '  name = "${pname}-${version}"; inherit deps list; system = builtins.currentSystem;'
  echo '  builder = "/bin/sh"; PATH = "/usr/bin:/bin"; LC_ALL = "C"; args = [ ./install.sh ]; };'
  echo 'in rec {'
  for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | head -c 2 || true)
    [ "$state" = ii ] || continue
    # Below /usr and the like only: nothing of the machine's own configuration.
    # Where /bin is a link to /usr/bin, the build sees the latter only.
    dpkg-query -L "$package" | grep -E '^/(usr|bin|sbin|lib|lib64)/' | while IFS= read -r file; do
      if [ -f "$file" ] && [ ! -L "$file" ] && [ -r "$file" ]; then printf '%s\n' "$file"; fi
    done | xargs -r -d '\n' realpath | grep -E '^/(usr|bin|lib|lib64)/' | sort -u > "$work/lists/$package" || true
    [ -s "$work/lists/$package" ] || continue
    version=$(plain "$(dpkg-query -W -f '${Version}' "$package" | head -n 1)")
    deps=
    for wanted in $(dpkg-query -W -f '${Pre-Depends}, ${Depends}' "$package" | tr ',|' '\n' | awk '{print $1}' | sort -u); do
      wanted=${wanted%%:*}
      case $known in *" $wanted "*) deps="$deps p.\"$wanted\"" ;; esac
    done
    echo "  p.\"$package\" = mk \"$(plain "$package")\" \"$version\" [ $deps ] ./lists/$package;"
    known="$known$package "
  done
  echo '}'
} > "$work/default.nix"
fi

cat > "$work/install.sh" <<'INSTALL'
set -eu
echo "installing $name"
mkdir -p $out/nix-support
echo "$out" > $out/nix-support/self
for dep in $deps; do echo "$dep" >> $out/nix-support/propagated-build-inputs; done
while IFS= read -r file; do
  mkdir -p "$out$(dirname "$file")"
  cp "$file" "$out$file"
  echo "copied $file"
done < $list
find $out -type f -name '*.so.*' | sort | while IFS= read -r library; do
  ln -s "$(basename "$library")" "${library%%.so.*}.so" 2>/dev/null || true
done
INSTALL

export HOME="$work/home" NIX_REMOTE="local?root=$work/root"
unset NIX_PATH
# Never name /etc here: Nix makes mount points of its own for hosts and resolv.conf and so empties the host's.
NIX_CONFIG="
experimental-features = nix-command
substituters =
sandbox = true
sandbox-paths = /bin /usr /lib /lib64
max-jobs = $(nproc)
http-connections = 0
build-users-group =
"
export NIX_CONFIG
cd "$work"
nix-instantiate default.nix -A p 2> instantiate.log | sed 's/!.*//' | sort -u > drvs.txt ||
  { tail -n 5 instantiate.log >&2; exit 1; }
xargs nix-store --realise < drvs.txt > built.txt 2> build.log || { tail -n 5 build.log >&2; exit 1; }
# With what the outputs refer to, so that the list is closed.
xargs nix-store --query --requisites < built.txt | sort -u > "$out/paths.txt"
xargs nix-store --query --references < "$out/paths.txt" | sort -u > referenced.txt
# A path that refers to itself is no root's reason to be left out.
while read -r path; do
  users=$(nix-store --query --referrers "$path" | grep -cvxF "$path" || true)
  [ "$users" -gt 0 ] || echo "$path"
done < "$out/paths.txt" > "$out/roots.txt"

nix-store --generate-binary-cache-key firn-demo-1 "$out/key.sec" "$out/key.pub"
mkdir -p "$out/cache"
printf 'StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n' > "$out/cache/nix-cache-info"
export_closure() { # COMPRESSION: the paths come on standard input
  xargs -r nix copy --no-check-sigs \
    --to "file://$out/cache?compression=$1&secret-key=$out/key.sec&write-nar-listing=true" 2>> copy.log ||
    { tail -n 5 copy.log >&2; exit 1; }
}
# Some bare, some as xz, the rest as zstd: what a publisher meets today, in little time. A cache takes no path
# before those it refers to, so each step takes a closure and skips what is there already.
{ grep -E -- '-(libtinfo6|libuuid1|hostname|firn|empty)-' || true; } < "$out/paths.txt" | export_closure none || exit 1
{ grep -E -- '-(sed|libacl1|gzip|libpam0g|ncurses-bin|ice|many-files)-' || true; } < "$out/paths.txt" | export_closure xz || exit 1
export_closure zstd < "$out/paths.txt"
xargs nix store copy-log --to "file://$out/cache" < drvs.txt 2>> copy.log || true
echo "$(wc -l < "$out/paths.txt") store paths, $(awk '/^NarSize:/ {n += $2} END {printf "%.1f", n / 1e6}' "$out"/cache/*.narinfo) MB of NARs, signed by $(cut -d: -f1 "$out/key.pub")"
