# The builder of a package: a Debian package's files, moved and rewritten so that they name store paths where files that
# Nix builds do: run paths and interpreters, wrapped programs, prefixes in scripts and configuration.
# shellcheck shell=sh disable=SC2154  # the variables come from the derivation
set -eu
exec 2>&1
umask 022
mkdir root
dpkg-deb --fsys-tarfile "/debs/$deb" | tar -x --no-same-owner --no-same-permissions -C root
chmod -R u+rwX root
mkdir -p "$out"
for from in root/usr root; do
  [ ! -d "$from" ] || (cd "$from" && find . -mindepth 1 -maxdepth 1 ! -name usr) | while IFS= read -r entry; do
    mkdir -p "$out/$entry" 2>/dev/null || true
    if [ -d "$from/$entry" ] && [ ! -L "$from/$entry" ]; then cp -a "$from/$entry/." "$out/$entry/"; else rm -rf "${out:?}/$entry"; cp -a "$from/$entry" "$out/$entry"; fi
  done
done
mkdir -p "$out/nix-support"
for dep in $deps; do echo "$dep"; done > "$out/nix-support/propagated-build-inputs"
find "$out" -type p -delete

run=$out/lib/x86_64-linux-gnu path=$out/bin
for dep in $deps; do
  [ ! -d "$dep/lib/x86_64-linux-gnu" ] || run=$run:$dep/lib/x86_64-linux-gnu
  [ ! -d "$dep/bin" ] || path=$path:$dep/bin
done
find "$out" -type f -size -40M ! -name '*.o' ! -name '*.a' | sort | while IFS= read -r file; do
  case $(head -c 4 "$file" | tr -d '\0') in
    "$(printf '\177ELF')") case $file in *.ko | */vmlinuz*) ;; *) patchelf --set-rpath "$run" "$file" || true ;; esac ;;
  esac
done
# Text that names its own prefix.
grep -rIlE '/usr/(share|lib|bin|include)' "$out" 2>/dev/null | sort | while IFS= read -r file; do
  [ -L "$file" ] || sed -i "s|/usr/\(share\|lib\|include\)|$out/\1|g; 1s|^#! */usr/bin/|#!$out/bin/|" "$file"
done || true
if [ -d "$out/bin" ]; then
  find "$out/bin" -type f -perm /111 | sort | while IFS= read -r file; do
    hidden=$(dirname "$file")/.$(basename "$file")-wrapped
    mv "$file" "$hidden"
    printf '#! /bin/sh -e\nexport PATH=%s${PATH:+:}$PATH\nexec -a "$0" %s "$@"\n' "$path" "$hidden" > "$file"
    chmod +x "$file"
  done
fi
