/// Reads all finished segments and index files of an open store again and again, slowly, on a thread of its own, and tells
/// what is damaged: a disk that loses what is hardly ever read is found out while there is still a copy.
///
/// ```swift
/// let scrub = store.scrub { damage in logger.error("\(damage)") }
/// ```
///
/// It takes as much of the disk as its rate says, and memory for one segment; what it brought into the page cache leaves
/// it again, so that it pushes out nothing that is in use. It remembers in the store's file `scrub` where it is, goes on
/// there after a restart, and does not leave a damaged file behind: so long as it is damaged, every start tells again. It ends
/// with ``stop()``, when what ``LogStore/scrub(_:onDamage:)`` returned is released, and when the store is closed. May be used
/// from any thread.
public final class Scrub: Sendable {
  /// How fast and how often a scrub reads the store.
  public struct Options: Sendable {
    /// How fast it reads; at least ``bytesPerSecondMin``. Other values are refused.
    public var bytesPerSecond: UInt64 = 8 << 20
    /// From the beginning of one round to that of the next, if it takes no longer: from 0 to ``intervalMax``, and taken for a
    /// second if it is less. Others are refused.
    public var interval = Duration.seconds(86_400)

    /// 64 KiB a second.
    public static let bytesPerSecondMin: UInt64 = 64 << 10
    /// Ten years.
    public static let intervalMax = Duration.seconds(3650 * 86_400)

    /// 8 MiB a second, one round a day.
    public init() {}

    func check() throws(LogStoreError) {
      guard bytesPerSecond >= Self.bytesPerSecondMin else {
        throw .invalidArgument(
          "a scrub of \(bytesPerSecond) bytes a second; it must be at least \(Self.bytesPerSecondMin)")
      }
      guard interval >= .zero, interval <= Self.intervalMax else {
        throw .invalidArgument("a scrub every \(interval); it must be 0 seconds to \(Self.intervalMax)")
      }
    }
  }

  /// What it has done since it was begun.
  public struct Report: Sendable {
    /// Rounds that came to the end of the log.
    public var rounds = 0
    /// Bytes that were read and checked.
    public var bytes: UInt64 = 0
    /// Damaged places that the present round or the one before has met.
    public var findings: [Damage] = []
  }

  static let fileName = "scrub"

  private let loop: ScrubLoop

  init(_ segments: SegmentSet, _ options: Options, onDamage: @escaping @Sendable (Damage) -> Void) {
    loop = ScrubLoop(segments, options, onDamage: onDamage)
  }

  deinit {
    loop.end()
  }

  /// What the scrub has done until now. May be read from any thread.
  public var report: Report { loop.report }

  /// Ends it, and returns when it has ended: within a piece of 256 KiB. From within `onDamage` it returns at once. May be called
  /// again.
  public func stop() { loop.stop() }

  /// - Parameter durable: whose end ends it.
  func start(until commitPoint: CommitPoint) throws(LogStoreError) {
    try loop.start()
    commitPoint.whenClosed { [weak loop] in loop?.end() }
  }

  /// One round, or the rest of one. False if it was stopped.
  func runOnce() -> Bool { loop.runOnce() }
}

extension LogStore {
  /// Begins to read the store in the background: see ``Scrub``. Keep what is returned: released, it ends.
  ///
  /// - Parameter options: how fast and how often it reads.
  /// - Parameter onDamage: called from the scrub's thread, once for each place while it stays damaged.
  /// - Throws: ``LogStoreError/invalidArgument(_:)``, ``LogStoreError/closed``, and
  ///   ``LogStoreError/inputOutput(operation:path:code:)`` where no thread can be had.
  public func scrub(
    _ options: Scrub.Options = Scrub.Options(), onDamage: @escaping @Sendable (Damage) -> Void
  ) throws(LogStoreError) -> Scrub {
    try options.check()
    try reader.commitPoint.check()
    let scrub = Scrub(reader.commitPoint.segments, options, onDamage: onDamage)
    try scrub.start(until: reader.commitPoint)
    return scrub
  }
}
