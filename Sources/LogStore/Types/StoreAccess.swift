/// Who may read the files that are created, besides the process's user. Directories and files get exactly these modes,
/// whatever the umask. Existing ones keep their mode.
///
/// In both cases only users who may write have access to the lock file: nobody else can delay a writer with it.
public enum StoreAccess: Sendable, Hashable {
  /// Nobody else: directories 0700, files 0600.
  case owner
  /// The files' group may read: directories 0750, files 0640. Files get the process's group, or that of a directory with
  /// the set-group-ID bit.
  case group

  var directoryMode: UInt32 { self == .owner ? 0o700 : 0o750 }
  var fileMode: UInt32 { self == .owner ? 0o600 : 0o640 }
}
