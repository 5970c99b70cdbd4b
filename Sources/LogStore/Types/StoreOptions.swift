/// What a store is opened with.
///
/// What is out of its range is refused by ``LogStore/open(_:options:)`` with ``LogStoreError/invalidArgument(_:)``, before
/// anything is made.
public struct StoreOptions: Sendable {
  /// Bytes of a segment file, from 64 KiB to 1 GiB; rounded up to 4 KiB. It holds for segments made from now on.
  public var segmentBytes = 64 << 20
  /// Make the store, and its directory, if there is none. Without, nothing is made where there is none.
  public var createIfMissing = true
  /// How long a sync waits for more appends to join it, while there are many: fewer syncs, and fewer wake-ups of those
  /// who wait for them, for so much more latency. With dozens of appends at once it waits twice as long. 0 syncs what
  /// there is at once, which is best while the processor isn't what is short. A writer that is alone never waits.
  /// (PostgreSQL has the same as `commit_delay` and `commit_siblings`.) From 0 to 1,000.
  public var gatherMilliseconds: UInt32 = 0
  /// Bytes of memory for streams that are read again and again; 0 for none, otherwise from 1 MiB to 64 GiB. A stream that fits
  /// takes as long to load as it would in a small log, however large this one is. Nothing is taken before it is used.
  public var streamCacheBytes = 32 << 20
  /// Open a store whose finished segments are damaged, too: with a damaged header, cut, or missing. Without, such a store
  /// is refused. What is sound is served and appended to; reading what is not throws ``LogStoreError/damaged(_:)``, and
  /// so does an append whose stream has its last event there. A damaged last segment is refused in any case: what stands
  /// behind the damage can't be told from what was never finished.
  public var servesDamaged = false
  /// Who may read what is made from now on.
  public var access = StoreAccess.owner

  /// So many answers take long enough to give that they are left for the time when the disk writes the next group, if half
  /// as many requests wait already. Left with 4 of 8 writers they made a cycle 15 % longer, with 8 or 16 they made no
  /// difference, with 32 of 64 a cycle is 12 to 15 % shorter.
  var dueCount = 16

  /// The defaults, as each property states its own.
  public init() {}
}
