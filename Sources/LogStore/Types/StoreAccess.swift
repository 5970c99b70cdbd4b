/// Who beside the process's user may read what is made: directories and files get just these modes, whatever the umask.
/// What is there already keeps its mode.
///
/// The lock file is for those who may write, in both cases: nobody else can hold a writer up with it.
public enum StoreAccess: Sendable, Hashable {
  /// Nobody else: directories 0700, files 0600.
  case owner
  /// The files' group may read: directories 0750, files 0640. Files get the process's group, or that of a directory with the
  /// set-group-ID bit.
  case group

  var directoryMode: UInt32 { self == .owner ? 0o700 : 0o750 }
  var fileMode: UInt32 { self == .owner ? 0o600 : 0o640 }
}
