# A Firn storage node as a NixOS service.
#
#   services.firn.node = {
#     enable = true;
#     settings.archive = "https://cache.example.org/archive.firn";
#   };
#
# lends 50 GB (never more than half of what is free) at 10 Mbit/s to that archive. `enable` alone lends them to the public archive,
# once there is one. The program is built from the checkout that this file is in.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.firn.node;
  format = pkgs.formats.toml { };
  program = lib.getExe' cfg.package "firn-storage-node";

  unchecked = format.generate "firn-storage-node.toml" cfg.settings;
  # A wrong key or value is found when the system is built, not when it is switched to.
  settingsFile = pkgs.runCommand "firn-storage-node-checked.toml" { } ''
    ${program} check --data-dir ${lib.escapeShellArg cfg.dataDir} --config ${unchecked}
    cp ${unchecked} $out
  '';
  port = lib.toInt (lib.last (lib.splitString ":" cfg.settings.listen));
  isStateDirectory = cfg.dataDir == "/var/lib/firn-storage-node";
in
{
  options.services.firn.node = {
    enable = lib.mkEnableOption "a Firn storage node, which lends disk and bandwidth to an archive of Nix store paths";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix {
        crate = "firn-storage-node";
        program = "firn-storage-node";
      };
      defaultText = lib.literalMD "`firn-storage-node`, built from the checkout that this module is in";
      description = "The package with the program `firn-storage-node`.";
    };

    dataDir = lib.mkOption {
      type = lib.types.path;
      default = "/var/lib/firn-storage-node";
      example = "/mnt/disk/firn";
      description = ''
        Where the node keeps its identity and shards. The service waits for the disk that it is on, and a node whose disk is
        not mounted does not start.
      '';
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open the UDP port of `settings.listen`, at which readers reach the node.";
    };

    tokenFile = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      example = "/run/secrets/firn-token";
      description = ''
        A file with the join token that the archive's operator gave you. systemd hands it to the service as a credential, so
        that root alone needs to be able to read it.
      '';
    };

    settings = lib.mkOption {
      description = ''
        Options of `firn-storage-node`, with the names that they have on its command line. They are checked when the system is
        built.
      '';
      default = { };
      example = {
        archive = "https://cache.example.org/archive.firn";
        quota = "500GB";
        max-upload = "20Mbit/s";
        monthly-traffic = "2TB";
        active-hours = "22:00-07:00";
        notify-command = "/run/current-system/sw/bin/curl -fsS -d @- https://example.org/my-node";
      };
      type = lib.types.submodule {
        freeformType = format.type;
        options = {
          archive = import ./archive.nix {
            inherit lib;
            service = "node";
          };
          listen = lib.mkOption {
            type = lib.types.str;
            default = "0.0.0.0:4434";
            description = "The UDP address to listen on.";
          };
          http = lib.mkOption {
            type = lib.types.str;
            default = "127.0.0.1:9434";
            description = "The TCP address of the owner's page and of `/metrics`: this machine's alone unless set otherwise.";
          };
        };
      };
    };
  };

  config = lib.mkIf cfg.enable {
    users.users.firn-storage-node = {
      isSystemUser = true;
      group = "firn-storage-node";
      home = cfg.dataDir;
    };
    users.groups.firn-storage-node = { };

    networking.firewall.allowedUDPPorts = lib.mkIf cfg.openFirewall [ port ];

    systemd.services.firn-storage-node = {
      description = "Firn storage node";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      unitConfig.RequiresMountsFor = [ cfg.dataDir ];
      environment = {
        FIRN_DATA_DIR = cfg.dataDir;
      }
      // lib.optionalAttrs (cfg.tokenFile != null) { FIRN_TOKEN_FILE = "%d/token"; };
      serviceConfig = {
        Type = "exec";
        # Marks what the node sends as background (-: where that cannot be done it starts all the same; +: as root).
        ExecStartPre = "-+${lib.getExe' pkgs.nftables "nft"} -f ${../systemd/storage-node.nft}";
        ExecStart = "${program} --config ${settingsFile}";
        User = "firn-storage-node";
        Group = "firn-storage-node";
        UMask = "0077";
        # Wrong settings (2) get no better by starting again; a disk that is not mounted (1) does.
        Restart = "on-failure";
        RestartSec = "30s";
        RestartPreventExitStatus = 2;
        TimeoutStopSec = "30s";

        # Whatever else runs on the machine comes first.
        CPUWeight = 20;
        IOWeight = 20;
        MemoryHigh = "768M";
        MemoryMax = "1G";
        TasksMax = 128;
        LimitNOFILE = 4096;
      }
      // import ./hardening.nix
      // (
        if isStateDirectory then
          {
            StateDirectory = "firn-storage-node";
            StateDirectoryMode = "0700";
          }
        else
          { ReadWritePaths = [ cfg.dataDir ]; }
      )
      // lib.optionalAttrs (cfg.tokenFile != null) { LoadCredential = "token:${cfg.tokenFile}"; };
    };

    # Not made by the service: on a disk that is not mounted there is nothing to be made.
    systemd.tmpfiles.settings = lib.mkIf (!isStateDirectory) {
      firn-storage-node.${cfg.dataDir}.d = {
        user = "firn-storage-node";
        group = "firn-storage-node";
        mode = "0700";
      };
    };
  };
}
