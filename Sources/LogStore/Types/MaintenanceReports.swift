/// What `verify` found.
public struct VerificationReport: Sendable {
  /// Every place that is not what was written; empty for a sound store. Damaged index files are included, though nothing
  /// depends on them: ``LogStore/reindex(_:access:progress:)`` rebuilds them.
  public var findings: [Damage] = []
  /// An unfinished write behind the end of the log, after a crash. It is not damage; the next writer cuts it off.
  public var tornTail: Damage?
  /// Events that were read and checked.
  public var events: UInt64 = 0
  /// Offsets without events that a repair left. They are not damage.
  public var gaps: [Range<UInt64>] = []
  /// Segment files that were read.
  public var segments = 0
  /// Bytes of segments and indexes that were read.
  public var bytes: UInt64 = 0
}

/// What `reindex` built.
public struct ReindexReport: Sendable {
  /// Finished segments, each of which has a new index.
  public var segments = 0
  /// Bytes of all index files.
  public var indexBytes: UInt64 = 0
}
