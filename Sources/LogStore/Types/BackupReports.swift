/// Where a backup is written to, or read from.
public enum BackupLocation: Sendable, Hashable {
  /// A directory, made if it is missing. Each finished segment is copied to it once, whichever run it is.
  case directory(String)
  /// One file. It is written under the name with `.tmp` behind it, and takes the place of an older backup when it is whole.
  case file(String)
  /// An open descriptor, such as that of a pipe; `name` is what messages call it. It stays open.
  case descriptor(Int32, name: String)
}

/// What a backup holds and what it took.
public struct BackupReport: Sendable, Hashable {
  /// Every event with a lower offset is in the backup, and no other.
  public var endOffset: UInt64
  /// Segment files in the backup.
  public var segments: Int
  /// Segments that were in the directory already, whole and unchanged.
  public var segmentsKept: Int
  /// Bytes of the other segments.
  public var bytesCopied: UInt64
  /// An unfinished write behind the end of the log, after a crash: it is not in the backup, and nothing acknowledged is
  /// missing.
  public var tornTail: Damage?
}

/// What was restored.
public struct RestoreReport: Sendable, Hashable {
  /// The offset after the last event.
  public var endOffset: UInt64
  /// Segment files of the restored store.
  public var segments: Int
  /// Bytes of segments that were read from the backup and kept.
  public var bytes: UInt64
}
