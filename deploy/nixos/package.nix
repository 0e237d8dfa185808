# One of Firn's programs, built from the checkout that this file is in. It wants a nixpkgs with the Rust of `rust-version` in
# Cargo.toml, or a newer one.
#
# Only what the program is made of is compiled: neither the storage node nor the gateway waits for RocksDB.
{
  lib,
  rustPlatform,
  # The crate, and the program that it makes.
  crate,
  program,
}:
let
  root = ../..;
  workspace = (lib.importTOML (root + "/Cargo.toml")).workspace;
in
rustPlatform.buildRustPackage {
  pname = program;
  version = workspace.package.version;

  # Nothing else: what is changed in the documents, or lies beside the sources, builds nothing anew.
  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions (
      [
        (root + "/Cargo.toml")
        (root + "/Cargo.lock")
      ]
      # Cargo looks at the crates of the whole workspace.
      ++ map (member: root + "/${member}") workspace.members
    );
  };
  cargoLock.lockFile = root + "/Cargo.lock";
  cargoBuildFlags = [
    "--package"
    crate
  ];

  # They start whole archives, and are run before anything is released.
  doCheck = false;

  meta = {
    description = "An erasure-coded archive of Nix store paths over volunteers' machines";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = program;
    platforms = lib.platforms.linux;
  };
}
