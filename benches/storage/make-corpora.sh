#!/usr/bin/env bash
# Makes the binary caches that `benches/storage` measures, with the real Nix and the packages of Debian's mirror.
#
# usage: make-corpora.sh DIR [generations|pairs|different|large …]
#
# DIR/NAME/cache is a signed cache of .nar.xz as Nix makes them, DIR/NAME/key.pub its key, and DIR/NAME/paths.txt says of
# each path in which generation it came. A corpus that is there is left alone. `packages.txt` lists what is in them:
#   generations  the packages of the first generation in their oldest versions; in each of seven further ones the package
#                that all others refer to changes, and so every hash; up to the seventh, a seventh of the packages that
#                have two versions goes over to the newer one, and the eighth is nothing but a rebuild
#   pairs        the last two versions of large packages, as two generations
#   different    many packages in one version
#   large        a few of over 300 MB
# Needs Nix, and apt with the lists of packages.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/debs" "$1/tools"
top=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- generations pairs different large

fetch() { # SPEC…: NAME or NAME=VERSION, into debs
  (cd "$top/debs" && apt-get -qq -o APT::Sandbox::User=root download "$@" > /dev/null)
}
deb_of() { # NAME VERSION: the file's name, as apt writes it
  local found
  found=$(cd "$top/debs" && compgen -G "$1_${2//:/%3a}_*.deb" | head -n 1) || return 0
  echo "$found"
}
# Nix's own words for a version and a name are narrower than dpkg's.
plain() { sed 's/[^0-9A-Za-z+._?=-]/_/g; s/^\./_/' <<< "$1"; }

if [ ! -x "$top/tools/usr/bin/patchelf" ]; then
  fetch patchelf
  dpkg-deb -x "$top"/debs/patchelf_*.deb "$top/tools"
fi

make_corpus() { # NAME
  local name=$1 out=$top/$1 work=$top/$1/store
  [ ! -e "$out/paths.txt" ] || { echo "$name is there"; return; }
  chmod -R u+w "$work" 2>/dev/null || true
  rm -rf "$work" "$out"
  mkdir -p "$work/root" "$work/home" "$out/cache"
  echo "making $name"
  awk -v wanted="[$name]" '/^#/ {next} /^\[/ {on = ($0 == wanted); next} on {for (i = 1; i <= NF; i++) print $i}' \
    "$here/packages.txt" > "$work/names"

  # Of each package: oldest version and newest one, with their files.
  local package old new versions
  tr '=' '\n' < "$work/names" | xargs apt-cache madison 2>/dev/null | awk -F' *[|] *' '{gsub(/ /, "", $1); print $1, $2}' |
    sort -u > "$work/madison"
  while read -r package; do
    if [[ $package == *=* ]]; then
      old=${package%%=*} new=${package##*=}
      echo "$old $(awk -v p="$old" '$1 == p {print $2}' "$work/madison" | sort -V | tail -n 1)" \
        "$new $(awk -v p="$new" '$1 == p {print $2}' "$work/madison" | sort -V | tail -n 1)"
    else
      versions=$(awk -v p="$package" '$1 == p {print $2}' "$work/madison" | sort -V | tail -n 2)
      [ -n "$versions" ] || { echo "warning: the mirror has no $package" >&2; continue; }
      [ "$name" != different ] && [ "$name" != large ] || versions=$(tail -n 1 <<< "$versions")
      echo "$package $(head -n 1 <<< "$versions") $package $(tail -n 1 <<< "$versions")"
    fi
  done < "$work/names" > "$work/versions"
  awk '{print $1, $2; print $3, $4}' "$work/versions" | sort -u | while read -r package old; do
    [ -n "$(deb_of "$package" "$old")" ] || echo "$package=$old"
  done > "$work/missing"
  if [ -s "$work/missing" ]; then
    echo "downloading $(wc -l < "$work/missing") packages"
    # One that the mirror has lost since the lists were made costs only itself.
    # shellcheck disable=SC2046  # names and versions have no blanks
    fetch $(cat "$work/missing") || while read -r package; do fetch "$package" || true; done < "$work/missing"
  fi

  local generations=1
  case $name in generations) generations=8 ;; pairs) generations=2 ;; esac
  expression "$name" "$work" "$generations" > "$work/default.nix"
  cp "$here/unpack.sh" "$work/"
  export HOME="$work/home" NIX_REMOTE="local?root=$work/root"
  # Never name /etc here: Nix makes mount points of its own for hosts and resolv.conf and so empties the host's.
  export NIX_CONFIG="
experimental-features = nix-command
substituters =
sandbox = true
sandbox-paths = /bin /usr /lib /lib64 /debs=$top/debs /tools=$top/tools
max-jobs = $(nproc)
http-connections = 0
build-users-group =
"
  nix-store --generate-binary-cache-key firn-storage-1 "$out/key.sec" "$out/key.pub"
  local generation
  for generation in $(seq "$generations"); do
    (
      cd "$work"
      nix-instantiate default.nix -A "g$generation.p" 2> instantiate.log | sed 's/!.*//' | sort -u > drvs.txt ||
        { tail -n 5 instantiate.log >&2; exit 1; }
      xargs nix-store --realise < drvs.txt > built.txt 2> build.log || { tail -n 5 build.log >&2; exit 1; }
      xargs nix-store --query --requisites < built.txt | sort -u > all.txt
      touch seen.txt
      comm -13 seen.txt all.txt > new.txt
      sort -u seen.txt all.txt > both.txt && mv both.txt seen.txt
      xargs -n 4000 nix copy --no-check-sigs --to "file://$out/cache?compression=xz&secret-key=$out/key.sec" < new.txt 2> copy.log ||
        { tail -n 5 copy.log >&2; exit 1; }
    )
    sed "s/^/$generation /" "$work/new.txt" >> "$work/paths.txt"
    echo "generation $generation: $(wc -l < "$work/new.txt") paths"
  done
  mv "$work/paths.txt" "$out/paths.txt"
  chmod -R u+w "$work"
  rm -rf "$work"
  awk -v name="$name" '/^NarSize:/ {n += $2} /^FileSize:/ {f += $2} END {printf "%s: %.1f MB of NARs, %.1f MB as .nar.xz\n", name, n / 1e6, f / 1e6}' \
    "$out"/cache/*.narinfo
}

expression() { # NAME WORK GENERATIONS
  local work=$2 generation line=0 file known wanted deps
  echo 'let mk = pname: version: deb: deps: derivation {'
  echo '      name = "${pname}-${version}"; inherit deb deps; system = builtins.currentSystem;'
  echo '      builder = "/bin/sh"; PATH = "/usr/bin:/bin:/tools/usr/bin"; LC_ALL = "C"; args = [ ./unpack.sh ]; };'
  echo '    base = generation: derivation {'
  echo '      name = "base-1"; inherit generation; system = builtins.currentSystem; builder = "/bin/sh";'
  echo '      PATH = "/usr/bin:/bin"; args = [ "-c" "mkdir -p $out/bin; echo $generation > $out/generation" ]; };'
  echo 'in {'
  for generation in $(seq "$3"); do
    echo "  g$generation = rec { base-1 = base \"$generation\";"
    known=" " line=0
    while read -r old oldversion new newversion; do
      local package=$new version=$newversion
      # A package with two versions goes over in one of the generations 2 to 7; of a pair, in the second.
      if [ "$generation" -eq 1 ] || { [ "$3" -gt 2 ] && [ $((2 + line % 6)) -gt "$generation" ]; }; then
        package=$old version=$oldversion
      fi
      [ "$oldversion" = "$newversion" ] || line=$((line + 1))
      file=$(deb_of "$package" "$version")
      [ -n "$file" ] || continue
      deps=base-1
      for wanted in $(cd "$top/debs" && dpkg-deb -f "$file" Pre-Depends Depends | sed 's/^[A-Z][A-Za-z-]*: //' | tr ',|' '\n' | awk '{print $1}' | sort -u); do
        wanted=${wanted%%:*}
        case $known in *" $wanted "*) deps="$deps p.\"${wanted//./_}\"" ;; esac
      done
      # Nix passes over attributes whose names have dots.
      echo "    p.\"${new//./_}\" = mk \"$(plain "$package")\" \"$(plain "$version")\" \"$file\" [ $deps ];"
      known="$known$new "
    done < "$work/versions"
    echo '  };'
  done
  echo '}'
}

for corpus in "$@"; do make_corpus "$corpus"; done
