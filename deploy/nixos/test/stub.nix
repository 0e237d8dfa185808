# As much of nixpkgs as the modules need to be evaluated without it: options get their defaults, settings of a
# user take their place, and files are the text that they would hold.
let
  throwing = path: throw "the option ${path} is used but not set";
  isOption = value: builtins.isAttrs value && value._type or "" == "option";

  types = {
    path = "path";
    bool = "bool";
    str = "str";
    nullOr = type: "null or ${type}";
    package = "package";
    submodule = module: { inherit module; };
  };

  # What a user sets, in a tree of options.
  fill =
    path: options: given:
    builtins.mapAttrs (
      name: option:
      let
        here = "${path}.${name}";
        value = given.${name} or option.default or (throwing here);
      in
      if !isOption option then
        fill here option (given.${name} or { })
      else if builtins.isAttrs option.type then
        value // fill here option.type.module.options value
      else
        value
    ) options
    // (
      let
        unknown = builtins.filter (name: !(options ? ${name})) (builtins.attrNames given);
      in
      # A freeform submodule has whatever else is set; of the module itself there is nothing else.
      builtins.listToAttrs (
        map (name: {
          inherit name;
          value = given.${name};
        }) unknown
      )
    );

  lib = {
    inherit types;
    mkOption = option: option // { _type = "option"; };
    mkEnableOption =
      what:
      lib.mkOption {
        type = types.bool;
        default = false;
      };
    literalMD = text: text;
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    fileset = {
      unions = files: files;
      toSource = source: source;
    };
    licenses = {
      mit = "MIT";
      asl20 = "Apache-2.0";
    };
    platforms.linux = [ "x86_64-linux" ];
    mkIf = condition: content: if condition then content else { };
    optionalAttrs = condition: content: if condition then content else { };
    getExe' = package: name: "${package}/bin/${name}";
    escapeShellArg = text: "'${text}'";
    toInt = text: builtins.fromJSON text;
    last = list: builtins.elemAt list (builtins.length list - 1);
    splitString = separator: text: builtins.filter builtins.isString (builtins.split separator text);
  };

  toml =
    settings:
    builtins.concatStringsSep "" (
      builtins.attrValues (builtins.mapAttrs (name: value: "${name} = ${builtins.toJSON value}\n") settings)
    );

  # A package that is said in full and whose files are all there, by the name of its program.
  built =
    { pname, src, cargoLock, cargoBuildFlags, ... }@package:
    let
      missing = builtins.filter (file: !builtins.pathExists file) (src.fileset ++ [ cargoLock.lockFile ]);
      crate = builtins.elemAt cargoBuildFlags 1;
      manifest = lib.importTOML (src.root + "/${packages.${crate}}/Cargo.toml");
      programs = map (bin: bin.name) manifest.bin;
      # Each crate by its name.
      packages = builtins.listToAttrs (
        map (member: {
          name = (lib.importTOML (src.root + "/${member}/Cargo.toml")).package.name;
          value = member;
        }) (lib.importTOML (src.root + "/Cargo.toml")).workspace.members
      );
    in
    if missing != [ ] then
      throw "not there: ${toString missing}"
    else if !builtins.elem pname programs then
      throw "${crate} makes no program ${pname}"
    else
      builtins.seq (builtins.toJSON (package // { src = null; cargoLock = null; })) "/${pname}-${package.version}";

  pkgs = {
    callPackage =
      file: arguments:
      import file (
        {
          inherit lib;
          rustPlatform.buildRustPackage = built;
        }
        // arguments
      );
    coreutils = "/coreutils";
    nftables = "/nftables";
    formats.toml = _: {
      type = "toml";
      generate = name: toml;
    };
    runCommand = name: _: script: script;
  };

  # What the module of `services.firn.<name>` makes of what a user sets.
  evaluate =
    name: path: settings:
    let
      config.services.firn.${name} =
        fill "services.firn.${name}" module.options.services.firn.${name} settings;
      module = import path { inherit config lib pkgs; };
    in
    {
      inherit (module) config;
      settings = if settings.enable then toml config.services.firn.${name}.settings else "";
    };
in
{
  node = evaluate "node" ../storage-node.nix;
  gateway = evaluate "gateway" ../gateway.nix;
  # The archive of whoever names none, once there is one.
  publicArchive =
    { service, publicArchive }:
    (import ../archive.nix { inherit lib service publicArchive; }).default;
}
