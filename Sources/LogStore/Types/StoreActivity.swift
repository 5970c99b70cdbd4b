/// What a store has done since it was opened, and what its background threads have left to do: for monitoring. See
/// ``LogStore/activity``.
///
/// Counters begin at 0 with each opening and only grow. They are kept without locks, so one may already count an append that
/// another does not count yet.
public struct StoreActivity: Sendable {
  /// How often a value fell into each of a few ranges.
  public struct Distribution: Sendable {
    /// The ranges' upper bounds, ascending. A value that equals a bound belongs to the bound's range.
    public var bounds: [UInt64]
    /// The number of values in each range. One more than ``bounds``: the last range has no upper bound.
    public var counts: [UInt64]
    /// The sum of all values.
    public var sum: UInt64

    /// The number of all values.
    public var count: UInt64 { counts.reduce(0, +) }
  }

  /// Appends that were accepted, buffered ones included; not repeats of earlier ones.
  public var appends: UInt64 = 0
  /// Appends that were refused: conflicts, reused ids, limits, damage.
  public var refusals: UInt64 = 0
  /// Events in frames that were written.
  public var events: UInt64 = 0
  /// Bytes of these frames, with their headers, checkpoints and padding.
  public var bytes: UInt64 = 0
  /// How long each sync took, in microseconds. Its count is the number of commits.
  public var syncMicroseconds: Distribution
  /// How many appends each sync made durable.
  public var appendsOfSync: Distribution
  /// How long opening took, in microseconds: it finds the end of the log, by reading the last segment after a crash.
  public var openingMicroseconds: UInt64
  /// The offset after the last durable event.
  public var endOffset: UInt64
  /// Segments, the open one included.
  public var segments: Int
  /// Index files in use.
  public var indexFiles: Int
  /// Finished segments that have no index file yet, or lost it.
  public var segmentsToIndex: Int
  /// Merges of index files that are due and not done. Reads become slower while this number grows.
  public var mergesDue: Int
  /// Loads of a stream that found it in the cache in memory. 0 without a cache, as the next two.
  public var cacheHits: UInt64 = 0
  /// Loads of a stream that did not.
  public var cacheMisses: UInt64 = 0
  /// Bytes of streams in the cache.
  public var cacheBytes: Int = 0
}
