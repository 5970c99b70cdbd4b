/// Reads all finished segments and index files of an open store again and again, slowly, on a thread of its own, and
/// reports damage: a disk that loses rarely read data is noticed while there is still a copy.
///
/// ```swift
/// let scrub = store.scrub { damage in logger.error("\(damage)") }
/// ```
///
/// It reads the disk at its configured rate, and needs memory for one segment. Pages that it brought into the page cache
/// leave it again, so that they replace nothing in use. The store's file `scrub` records how far it got. It continues there
/// after a restart, and never goes past a damaged file: as long as the file is damaged, every start reports it again. It
/// ends with ``stop()``, when the value that ``LogStore/scrub(_:onDamage:)`` returned is released, and when the store is
/// closed. Can be used from any thread.
public final class Scrub: Sendable {
  /// How fast and how often a scrub reads the store.
  public struct Options: Sendable {
    /// Bytes to read per second; at least ``bytesPerSecondMin``. Other values are refused.
    public var bytesPerSecond: UInt64 = 8 << 20
    /// The time from the start of one round to the start of the next, if the round takes no longer: from 0 to
    /// ``intervalMax``; less than a second counts as a second. Other values are refused.
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

  /// What the scrub has done since it started.
  public struct Report: Sendable {
    /// Rounds that reached the end of the log.
    public var rounds = 0
    /// Bytes that were read and checked.
    public var bytes: UInt64 = 0
    /// The share of the present round that is done, by finished segments, from 0 to 1; 1 between two rounds, and before the
    /// first. A round that continues after a restart begins with what was done before.
    public var progress = 1.0
    /// Damaged places that the present round or the one before found.
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

  /// Ends the scrub, and returns when it has ended, which takes at most one piece of 256 KiB. Called from `onDamage`, it
  /// returns at once. Can be called again.
  public func stop() { loop.stop() }

  /// - Parameter commitPoint: the scrub ends when this closes.
  func start(until commitPoint: CommitPoint) throws(LogStoreError) {
    try loop.start()
    commitPoint.whenClosed { [weak loop] in loop?.end() }
  }

  /// Runs one round, or the rest of one. Returns false if it was stopped.
  func runOnce() -> Bool { loop.runOnce() }
}

extension LogStore {
  /// Starts to read the store in the background: see ``Scrub``. Keep the returned value: the scrub ends when it is
  /// released.
  ///
  /// - Parameter options: how fast and how often it reads.
  /// - Parameter onDamage: called on the scrub's thread, once for each place while it stays damaged.
  /// - Throws: ``LogStoreError/invalidArgument(_:)``, ``LogStoreError/closed``, and
  ///   ``LogStoreError/inputOutput(operation:path:code:)`` if no thread can be created.
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
