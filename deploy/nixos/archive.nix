# Which archive a service is of, for whoever names none.
#
# There is no public archive yet, so whoever names none is told so when the system is evaluated. Once there is one, the address
# of its descriptor stands here, and nowhere else.
{
  lib,
  # The service, as options name it.
  service,
  publicArchive ? null,
}:
lib.mkOption {
  type = lib.types.str;
  default =
    if publicArchive != null then
      publicArchive
    else
      throw "services.firn.${service}.settings.archive is not set, and there is no public archive yet: set it to the descriptor of your archive, a file or a URL";
  defaultText = lib.literalMD "the public archive, once there is one";
  example = "https://cache.example.org/archive.firn";
  description = "The descriptor of the archive: a file or a URL.";
}
