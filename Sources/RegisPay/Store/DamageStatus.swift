import LogStore
import Logging
import NIOPosix
import Synchronization

/// What of a log can't be read: the damaged ranges that its readers passed over, the payments that are incomplete because of
/// them, and the work that was skipped. Logs each range once, and shows it in `/health` until the file is readable again.
///
/// Safe to use from any task. Memory is bounded.
public final class DamageStatus: Sendable {
  /// Why a payment's state is not certain.
  public enum Concern: Sendable, Hashable {
    /// Some of its events can't be read.
    case incomplete
    /// One of its events is from a newer program.
    case newerEvent
  }

  /// Work that was skipped.
  public struct Skipped: Sendable, Hashable {
    public var id: PaymentID
    public var work: PaymentWork
    public var reason: String
  }

  private struct State {
    var ranges: [DamagedRange] = []
    var seen: Set<DamagedRange> = []
    /// What the disk can't read at the moment, by file, and the offset of the reader that waits for it; nil when a look-up met
    /// the damage and no reader waits.
    var unreadable: [String: (damage: Damage, offset: UInt64?)] = [:]
    /// Files that wait for inspection because a look-up met damage there, and that damage. Shown until the inspection is done.
    var filesToInspect: [String: Damage] = [:]
    /// Lost offsets, over all ranges.
    var lostCount: UInt64 = 0
    /// Streams that lost events, by their keys in an index.
    var lostStreams: Set<UInt64> = []
    /// An index doesn't list all lost events, or there are too many: more streams may be incomplete.
    var isPartlyUnknown = false
    var concerns: [PaymentID: Concern] = [:]
    var skipped: [Skipped] = []
    var skippedCount = 0

    /// Forgets what is known of a file, and what follows from all files: the caller finds the latter again from the rest.
    mutating func forget(_ file: String) {
      ranges.removeAll { $0.damage.file == file }
      seen = seen.filter { $0.damage.file != file }
      filesToInspect[file] = nil
      lostCount = seen.reduce(0) { $0 + $1.offsets.length }
      lostStreams = []
      isPartlyUnknown = false
      // The next load of each such payment notes it again.
      concerns = concerns.filter { $0.value != .incomplete }
    }
  }

  /// Ranges that are shown one by one.
  private static let rangeLimit = 100
  /// Ranges that are remembered.
  private static let seenLimit = 10_000
  private static let streamLimit = 1_000_000
  private static let concernLimit = 100_000
  private static let skippedLimit = 1_000

  private let name: String
  private let reader: LogReader
  private let logger: Logger?
  private let state = Mutex(State())
  private let hasConcerns = Atomic(false)
  private let hasUnreadable = Atomic(false)

  /// - Parameter name: of the log, for people.
  public init(_ reader: LogReader, name: String = "payments", logger: Logger? = nil) {
    self.name = name
    self.reader = reader
    self.logger = logger
  }

  // MARK: - Ranges

  /// Adds a damaged range that a reader passed over. Logs it the first time.
  func report(_ range: DamagedRange) {
    let isNew = state.withLock { state in
      guard state.seen.count < Self.seenLimit, state.seen.insert(range).inserted else { return false }
      state.lostCount += range.offsets.length
      if state.ranges.count < Self.rangeLimit { state.ranges.append(range) }
      return true
    }
    guard isNew else { return }
    logger?.error(
      "passed over damage; run logstore verify, then restore a backup or use logstore repair (docs/OPERATIONS.md)",
      metadata: [
        "log": "\(name)", "file": "\(range.damage.file)", "byte": "\(range.damage.position)",
        "reason": "\(range.damage.reason)", "offset": "\(range.offsets.lowerBound)",
        "events": "\(range.offsets.length)",
      ])
    guard !range.offsets.isEmpty else { return }
    // Reads an index file; no reader should wait for that.
    NIOThreadPool.singleton.submit { [self] _ in find(range) }
  }

  /// Notes that a reader waits for the disk: shown in `/health` until the reader moves on. Logged the first time.
  ///
  /// - Parameter offset: the reader's.
  func readerWaits(for damage: Damage, at offset: UInt64) { note(unreadable: damage, at: offset) }

  private func note(unreadable damage: Damage, at offset: UInt64?) {
    let isNew = state.withLock { state in
      let known = state.unreadable[damage.file]
      guard known != nil || state.unreadable.count < Self.rangeLimit else { return false }
      if let offset {
        state.unreadable[damage.file] = (damage, max(known?.offset ?? 0, offset))
      } else if known == nil {
        state.unreadable[damage.file] = (damage, nil)
      }
      return known == nil
    }
    hasUnreadable.store(true, ordering: .relaxed)
    if isNew {
      logger?.error(
        "the disk can't read the log; readers in order wait for 30 seconds, and then pass over what stands there",
        metadata: [
          "log": "\(name)", "file": "\(damage.file)", "byte": "\(damage.position)", "reason": "\(damage.reason)",
        ])
    }
  }

  /// Notes that a reader has moved on: it waits for nothing between these offsets. Usually costs one load.
  func readerMoved(from offset: UInt64, to next: UInt64) {
    guard hasUnreadable.load(ordering: .relaxed), next > offset else { return }
    state.withLock { state in
      state.unreadable = state.unreadable.filter { !($0.value.offset.map((offset..<next).contains) ?? false) }
      hasUnreadable.store(!state.unreadable.isEmpty, ordering: .relaxed)
    }
  }

  /// Notes a range that a response left out, and inspects its file.
  func noteLeftOut(_ range: DamagedRange) { inspectSoon(range.damage) }

  /// Finds the streams that lost events in a range.
  private func find(_ range: DamagedRange) {
    var lost: [LostEvent] = []
    do throws(LogStoreError) {
      lost = try reader.lostEvents(in: range.offsets)
    } catch {
      logger?.warning("can't tell which payments lost events", metadata: ["log": "\(name)", "error": "\(error)"])
    }
    state.withLock { state in
      for event in lost where state.lostStreams.count < Self.streamLimit { state.lostStreams.insert(event.key) }
      if lost.count < range.offsets.length || state.lostStreams.count == Self.streamLimit {
        state.isPartlyUnknown = true
      }
    }
  }

  /// Notes damage that a look-up or an append has met. Ignores other errors.
  func note(_ error: LogStoreError) {
    switch error {
    case .damaged(let damage): inspectSoon(damage)
    // No inspection: the next look-up may succeed.
    case .unreadable(let damage): note(unreadable: damage, at: nil)
    default: break
    }
  }

  /// Inspects a file in which a look-up met damage, once.
  private func inspectSoon(_ damage: Damage) {
    let isNew = state.withLock { state in
      guard state.filesToInspect.count < Self.rangeLimit, state.filesToInspect[damage.file] == nil else { return false }
      state.filesToInspect[damage.file] = damage
      return true
    }
    // Reads the whole file; no request should wait for that.
    if isNew { NIOThreadPool.singleton.submit { [self] _ in inspect(file: damage.file) } }
  }

  /// Finds and adds all damaged ranges of a file, after a scrub, opening or a look-up has met damage there. Blocks: reads the
  /// file.
  func inspect(file: String) {
    do throws(LogStoreError) {
      let ranges = try reader.damagedRanges(file: file)
      for range in ranges { report(range) }
      // The inspection could read all of the file, so the next damage met there starts a new one.
      if ranges.isEmpty { state.withLock { $0.filesToInspect[file] = nil } }
    } catch {
      state.withLock { $0.filesToInspect[file] = nil }
      if case .unreadable(let damage) = error { return note(unreadable: damage, at: nil) }
      logger?.warning(
        "can't tell what is damaged", metadata: ["log": "\(name)", "file": "\(file)", "error": "\(error)"])
    }
  }

  /// Checks every damaged file again: a file that was restored, or that the disk can read again, stops being damage, here and
  /// for all readers. Blocks: reads the files.
  func recheck() {
    let files = state.withLock { Set($0.seen.map(\.damage.file)).union($0.unreadable.keys) }
    for file in files.sorted() {
      let found: [DamagedRange]
      do throws(LogStoreError) {
        found = try reader.damagedRanges(file: file, again: true)
      } catch {
        // The file stays as it is until the next check.
        continue
      }
      let hasRecovered = state.withLock { state in
        // No reader waits for the disk any more. A reader that waited may have ended without a report.
        state.unreadable[file] = nil
        hasUnreadable.store(!state.unreadable.isEmpty, ordering: .relaxed)
        guard !state.seen.filter({ $0.damage.file == file }).isSubset(of: found) else { return false }
        state.forget(file)
        return true
      }
      // Also when nothing has recovered: no reader has passed over damage that only look-ups have met.
      for range in found { report(range) }
      guard hasRecovered else { continue }
      logger?.notice("a damaged file can be read again", metadata: ["log": "\(name)", "file": "\(file)"])
      for range in state.withLock({ $0.seen }) where range.damage.file != file && !range.offsets.isEmpty { find(range) }
    }
  }

  // MARK: - Payments

  /// Notes that a payment's state is not certain. Logged the first time.
  func note(_ id: PaymentID, _ concern: Concern, reason: @autoclosure () -> String) {
    let isNew = state.withLock { state in
      guard state.concerns[id] != concern, state.concerns.count < Self.concernLimit else { return false }
      state.concerns[id] = concern
      return true
    }
    hasConcerns.store(true, ordering: .relaxed)
    if isNew {
      logger?.error("a payment refuses commands", metadata: ["payment": "\(id)", "reason": "\(reason())"])
    }
  }

  /// Notes that all of a payment was read. Costs one load while no payment has a concern.
  func noteReadable(_ id: PaymentID) {
    if hasConcerns.load(ordering: .relaxed) { state.withLock { $0.concerns[id] = nil } }
  }

  /// Notes that a skipped step is processed after all.
  func resumed(_ id: PaymentID, _ work: PaymentWork) {
    state.withLock { $0.skipped.removeAll { $0.id == id && $0.work == work } }
  }

  /// The known concern about a payment; nil for nearly all.
  public func concern(_ id: PaymentID) -> Concern? {
    state.withLock { state in
      if let known = state.concerns[id] { return known }
      guard !state.lostStreams.isEmpty else { return nil }
      return state.lostStreams.contains(LostEvent.key(ofStream: id.stream)) ? .incomplete : nil
    }
  }

  /// Notes work that was skipped because its payment can't be read. Logged the first time.
  func skip(_ id: PaymentID, _ work: PaymentWork, reason: String) {
    let isNew = state.withLock { state in
      let entry = Skipped(id: id, work: work, reason: reason)
      guard !state.skipped.contains(where: { $0.id == id && $0.work == work }) else { return false }
      state.skippedCount += 1
      if state.skipped.count < Self.skippedLimit { state.skipped.append(entry) }
      return true
    }
    if isNew {
      logger?.error(
        "skipped a step", metadata: ["payment": "\(id)", "step": "\(work)", "reason": "\(reason)"])
    }
  }

  // MARK: - Summary

  /// What the API and `/health` show; lists hold the first entries only.
  public struct Summary: Sendable {
    public var ranges: [DamagedRange] = []
    /// Offsets without a readable event.
    public var lostEvents: UInt64 = 0
    /// Payments and other streams that are known to be incomplete.
    public var incomplete = 0
    public var newer = 0
    public var isPartlyUnknown = false
    public var skipped: [Skipped] = []
    /// What the disk can't read at the moment.
    public var unreadable: [Damage] = []
    /// Damage that a look-up met a moment ago; its inspection has yet to say how many events are lost.
    public var uninspected: [Damage] = []
  }

  public var summary: Summary {
    state.withLock { state in
      let incomplete = state.concerns.filter { $0.value == .incomplete }.keys
      let others = incomplete.count { !state.lostStreams.contains(LostEvent.key(ofStream: $0.stream)) }
      return Summary(
        ranges: state.ranges, lostEvents: state.lostCount, incomplete: state.lostStreams.count + others,
        newer: state.concerns.count - incomplete.count, isPartlyUnknown: state.isPartlyUnknown, skipped: state.skipped,
        unreadable: state.unreadable.values.map(\.damage).sorted { $0.file < $1.file },
        uninspected: state.filesToInspect.filter { entry in !state.seen.contains { $0.damage.file == entry.key } }
          .values
          .sorted { $0.file < $1.file })
    }
  }

  /// One line for each damaged range, and one for each consequence of all of them.
  public var warnings: [String] {
    let summary = summary
    var lines = summary.ranges.map { "the \(name) log: \($0)" }
    lines += summary.uninspected.map { "the \(name) log: \($0)" }
    lines += summary.unreadable.map {
      "the \(name) log: \($0); readers wait for the disk, for 30 seconds at most, and pass over it then;"
        + " requests that need it are refused"
    }
    if summary.lostEvents > 0 {
      lines.append(
        "the \(name) log: \(summary.lostEvents) events can't be read; \(summary.incomplete)"
          + " \(summary.isPartlyUnknown ? "or more " : "")streams are incomplete and refuse commands; run logstore verify, then"
          + " restore a backup or use logstore repair")
    }
    if summary.newer > 0 {
      lines.append(
        "the \(name) log: \(summary.newer) payments have events of a newer program and refuse commands; go back to it")
    }
    if !summary.skipped.isEmpty {
      lines.append("the \(name) log: \(summary.skipped.count) steps of such payments were skipped")
    }
    return lines
  }
}
