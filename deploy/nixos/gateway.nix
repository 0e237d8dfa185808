# A Firn gateway as a NixOS service: an archive as a binary cache.
#
#   services.firn.gateway = {
#     enable = true;
#     settings.archive = "https://cache.example.org/archive.firn";
#   };
#
# serves that archive at http://127.0.0.1:8080. The program is built from the checkout that this file is in.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.firn.gateway;
  format = pkgs.formats.toml { };
  program = lib.getExe' cfg.package "firn";
  settingsFile = format.generate "firn-gateway.toml" cfg.settings;
  port = lib.toInt (lib.last (lib.splitString ":" cfg.listen));
in
{
  options.services.firn.gateway = {
    enable = lib.mkEnableOption "a Firn gateway, which serves an archive of Nix store paths as a binary cache";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix {
        crate = "firn-cli";
        program = "firn";
      };
      defaultText = lib.literalMD "`firn`, built from the checkout that this module is in";
      description = "The package with the program `firn`.";
    };

    listen = lib.mkOption {
      type = lib.types.str;
      default = "127.0.0.1:8080";
      example = "0.0.0.0:443";
      description = ''
        The TCP address to listen on. systemd holds the port: while the gateway is started again, clients wait for a moment
        instead of failing.
      '';
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open the TCP port of `listen`.";
    };

    settings = lib.mkOption {
      description = "Options of `firn gateway`, with the names that they have on its command line.";
      default = { };
      example = {
        archive = "https://cache.example.org/archive.firn";
        memory-cache = "1GB";
        tls-certificate = "/var/lib/acme/cache.example.org/fullchain.pem";
        tls-key = "/var/lib/acme/cache.example.org/key.pem";
      };
      type = lib.types.submodule {
        freeformType = format.type;
        options.archive = import ./archive.nix {
          inherit lib;
          service = "gateway";
        };
        options.cache-dir = lib.mkOption {
          type = lib.types.str;
          default = "/var/cache/firn-gateway";
          description = ''
            Where filters, the end of the feed and what was read are kept. The gateway may write to the default and to
            `/var/lib/firn-gateway` alone: any other directory, also that of a `request-log`, has to belong to its user
            and stand in `systemd.services.firn-gateway.serviceConfig.ReadWritePaths`.
          '';
        };
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = !(cfg.settings ? listen);
        message = "services.firn.gateway.settings.listen has no effect: systemd holds the port, set services.firn.gateway.listen";
      }
    ];

    users.users.firn-gateway = {
      isSystemUser = true;
      group = "firn-gateway";
      home = "/var/lib/firn-gateway";
    };
    users.groups.firn-gateway = { };

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ port ];

    systemd.sockets.firn-gateway = {
      description = "Port of the Firn gateway";
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        ListenStream = cfg.listen;
        NoDelay = true;
        Backlog = 4096;
      };
    };

    systemd.services.firn-gateway = {
      description = "Firn gateway: a binary cache for Nix";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      requires = [ "firn-gateway.socket" ];
      after = [
        "network-online.target"
        "firn-gateway.socket"
      ];
      environment = {
        XDG_STATE_HOME = "/var/lib/firn-gateway";
      };
      serviceConfig = {
        Type = "notify";
        ExecStart = "${program} gateway --config ${settingsFile}";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        User = "firn-gateway";
        Group = "firn-gateway";
        CacheDirectory = "firn-gateway";
        StateDirectory = "firn-gateway";
        UMask = "0077";
        # Wrong settings (2) get no better by starting again.
        Restart = "on-failure";
        RestartSec = "2s";
        RestartPreventExitStatus = 2;
        TimeoutStartSec = "infinity";
        TimeoutStopSec = "60s";

        TasksMax = 256;
        LimitNOFILE = 65536;
      }
      // import ./hardening.nix;
    };
  };
}
