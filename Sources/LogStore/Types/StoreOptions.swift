/// Settings of a store. ``LogStore/open(_:options:)`` refuses a value out of range with
/// ``LogStoreError/invalidArgument(_:)``, before it creates anything.
public struct StoreOptions: Sendable {
  /// Bytes of a segment file, from 64 KiB to 1 GiB; rounded up to 4 KiB. Applies to segments created from now on.
  public var segmentBytes = 64 << 20
  /// Create the store and its directory if there is none. If false, nothing is created.
  public var createIfMissing = true
  /// How long a sync waits for more appends to join it, while there are many: fewer syncs and fewer wake-ups of waiting
  /// callers, at the price of this latency. With dozens of appends at once it waits twice as long. 0 syncs at once, which
  /// is best unless the processor is the bottleneck. A single writer never waits. (PostgreSQL has the same as
  /// `commit_delay` and `commit_siblings`.) From 0 to 1,000.
  public var gatherMilliseconds: UInt32 = 0
  /// Bytes of memory for streams that are read again and again; 0 for none, otherwise from 1 MiB to 64 GiB. A stream that
  /// fits loads as fast as in a small log, however large this one is. Memory is taken only when it is used.
  public var streamCacheBytes = 32 << 20
  /// Also open a store whose finished segments are damaged: with a damaged header, truncated, or missing. If false, such a
  /// store is refused. Sound events are served and appended to. Reading damaged ones throws ``LogStoreError/damaged(_:)``,
  /// and so does an append whose stream has its last event there. A damaged last segment is refused in any case: what lies
  /// behind the damage can't be distinguished from an unfinished write.
  public var servesDamaged = false
  /// Who may read the files that are created from now on.
  public var access = StoreAccess.owner

  /// From this many, responses take long enough to send that they are left until the disk writes the next group, if half as
  /// many requests wait already. Measured: with 4 of 8 writers this made a cycle 15 % longer, with 8 or 16 it made no
  /// difference, with 32 of 64 it makes a cycle 12 to 15 % shorter.
  var dueCount = 16

  /// The defaults, as each property states them.
  public init() {}
}
