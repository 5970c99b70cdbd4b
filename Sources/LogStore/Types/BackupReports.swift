/// Where a backup is written to, or read from.
public enum BackupLocation: Sendable, Hashable {
  /// A directory, created if it is missing. Each finished segment is copied to it once, over all runs.
  case directory(String)
  /// One file. It is written under its name with `.tmp` appended, and replaces an older backup when it is complete. What
  /// else has that name is refused and left alone.
  case file(String)
  /// An open descriptor, such as that of a pipe; `name` is what messages call it. It stays open.
  case descriptor(Int32, name: String)
}

/// What a backup holds, and what the run copied.
public struct BackupReport: Sendable, Hashable {
  /// Every event with a lower offset is in the backup, and no other.
  public var endOffset: UInt64
  /// Segment files in the backup.
  public var segments: Int
  /// Segments that were in the directory already, complete and unchanged.
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
  /// Bytes of segments that were restored from the backup.
  public var bytes: UInt64
}
