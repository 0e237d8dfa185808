# What the repository's small cache was built from: twelve paths of unusual shape that refer to each other.
#   FIRN_DEMO_EXPRESSION=deploy/demo/fallback.nix deploy/demo/make-cache.sh OUT
let
  path = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    LC_ALL = "C";
    args = [ "-c" ("set -eu; echo building $name\n" + script) ];
  };
in rec {
  p = rec {
    snow = path "snow-1" "mkdir $out; seq 1 20000 > $out/flakes";
    firn = path "firn-1" "mkdir -p $out/bin; echo ${snow} > $out/source; printf '#!/bin/sh\\ncat ${snow}/flakes\\n' > $out/bin/firn; chmod +x $out/bin/firn";
    ice = path "ice-1" "mkdir $out; ln -s ${firn}/bin/firn $out/firn; echo $out > $out/self";
    glacier = path "glacier-1" "mkdir -p $out/a/b/c; echo ${ice} ${firn} > $out/a/b/c/references; seq 20000 60000 > $out/a/layers";
    core = path "core-sample-1" "mkdir $out; echo ${glacier} > $out/glacier; for i in $(seq 600); do echo $i | sha256sum; done > $out/noise";
    empty = path "empty-1" ": > $out";
    emptyDirectory = path "empty-directory-1" "mkdir $out";
    names = path "odd-names-1" "mkdir -p \"$out/größe\" \"$out/with space\"; echo 1 > \"$out/größe/a+b%20c?d#e\"; echo 2 > \"$out/with space/x\"";
    link = path "link-1" "ln -s ${snow} $out";
    script = path "script-1" "printf '#!/bin/sh\\necho ok\\n' > $out; chmod +x $out";
    many = path "many-files-1" "mkdir $out; i=0; while [ $i -lt 300 ]; do echo $i > $out/f$i; i=$((i+1)); done";
    top = path "top-1" "mkdir $out; echo ${core} ${empty} ${emptyDirectory} ${names} ${link} ${script} ${many} > $out/all";
  };
}
