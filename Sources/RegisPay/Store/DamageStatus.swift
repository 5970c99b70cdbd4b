import LogStore
import Logging
import NIOPosix
import Synchronization

/// What of a log can't be read: the damaged places that its followers passed over, the payments that are incomplete because
/// of them, and the work that was skipped. Each place is logged once, and shown in `/health` until the file is whole again.
///
/// Safe to use from any task. Memory is bounded.
public final class DamageStatus: Sendable {
  /// Why a payment is not what its events say.
  public enum Concern: Sendable, Hashable {
    /// Some of its events can't be read.
    case incomplete
    /// It has an event of a newer program.
    case newerEvent
  }

  /// Work that was passed over.
  public struct Skipped: Sendable, Hashable {
    public var id: PaymentID
    public var work: PaymentWork
    public var reason: String
  }

  private struct State {
    var ranges: [DamagedRange] = []
    var seen: Set<DamagedRange> = []
    /// What the disk can't read at the moment, by file, and the offset from which a reader has come to it; nil where
    /// nobody waits, since a look-up met it.
    var unreadable: [String: (damage: Damage, place: UInt64?)] = [:]
    /// Files that are looked through because a look-up met damage there, and what it met. Told until all of it is known.
    var metFiles: [String: Damage] = [:]
    /// Offsets that are missing, over all ranges.
    var lostCount: UInt64 = 0
    /// Streams that lost events, as an index has them.
    var lostStreams: Set<UInt64> = []
    /// Not all lost events are listed in an index, or there are too many: others than these may be concerned.
    var isPartlyUnknown = false
    var concerns: [PaymentID: Concern] = [:]
    var skipped: [Skipped] = []
    var skippedCount = 0

    /// Forgets what is known of a file, and what follows from all files: that is found again from what is left.
    mutating func forget(_ file: String) {
      ranges.removeAll { $0.damage.file == file }
      seen = seen.filter { $0.damage.file != file }
      metFiles[file] = nil
      lostCount = seen.reduce(0) { $0 + $1.offsets.length }
      lostStreams = []
      isPartlyUnknown = false
      // Each is noted again by the next who loads it.
      concerns = concerns.filter { $0.value != .incomplete }
    }
  }

  /// Places that are shown one by one.
  private static let rangeLimit = 100
  /// Places that are told from each other.
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

  // MARK: - Places

  /// Takes in a damaged place that was passed over. Logged the first time.
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
    // Reads an index file, for which no follower should wait.
    NIOThreadPool.singleton.submit { [self] _ in find(range) }
  }

  /// Notes that a reader waits for the disk: seen in `/health` until it has read on. Logged the first time.
  ///
  /// - Parameter place: where the reader stands.
  func waits(for damage: Damage, at place: UInt64) { note(unreadable: damage, at: place) }

  private func note(unreadable damage: Damage, at place: UInt64?) {
    let isNew = state.withLock { state in
      let known = state.unreadable[damage.file]
      guard known != nil || state.unreadable.count < Self.rangeLimit else { return false }
      if let place {
        state.unreadable[damage.file] = (damage, max(known?.place ?? 0, place))
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

  /// Notes that a reader has come from one offset to another: it waits for nothing between. One load as a rule.
  func readOn(from place: UInt64, to next: UInt64) {
    guard hasUnreadable.load(ordering: .relaxed), next > place else { return }
    state.withLock { state in
      state.unreadable = state.unreadable.filter { !($0.value.place.map((place..<next).contains) ?? false) }
      hasUnreadable.store(!state.unreadable.isEmpty, ordering: .relaxed)
    }
  }

  /// Takes in what an answer has left out: all that is damaged in the file is looked for.
  func metNow(_ range: DamagedRange) { met(range.damage) }

  /// Looks which streams lost events there.
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

  /// Takes in the place that a look-up, or an append, has met and could not read. Any other error tells nothing of it.
  func met(_ error: LogStoreError) {
    switch error {
    case .damaged(let damage): met(damage)
    // Nothing more is looked for: the next look-up may go well.
    case .unreadable(let damage): note(unreadable: damage, at: nil)
    default: break
    }
  }

  /// Takes in damage that a look-up has met: all that is damaged in its file is looked for, once.
  private func met(_ damage: Damage) {
    let isNew = state.withLock { state in
      guard state.metFiles.count < Self.rangeLimit, state.metFiles[damage.file] == nil else { return false }
      state.metFiles[damage.file] = damage
      return true
    }
    // Reads the file, for which no request should wait.
    if isNew { NIOThreadPool.singleton.submit { [self] _ in inspect(file: damage.file) } }
  }

  /// Takes in all that is damaged in a file of the log: what a scrub, or opening, has found. Blocks: reads the file.
  func inspect(file: String) {
    do throws(LogStoreError) {
      let ranges = try reader.damagedRanges(file: file)
      for range in ranges { report(range) }
      // It was well again when all of it was read, so it is looked for again when it is met again.
      if ranges.isEmpty { state.withLock { $0.metFiles[file] = nil } }
    } catch {
      state.withLock { $0.metFiles[file] = nil }
      if case .unreadable(let damage) = error { return note(unreadable: damage, at: nil) }
      logger?.warning(
        "can't tell what is damaged", metadata: ["log": "\(name)", "file": "\(file)", "error": "\(error)"])
    }
  }

  /// Looks at every damaged file again: what was put back, or what the disk can read again, is damage no more, here and for
  /// all who read. Blocks: reads the files.
  func lookAgain() {
    let files = state.withLock { Set($0.seen.map(\.damage.file)).union($0.unreadable.keys) }
    for file in files.sorted() {
      let found: [DamagedRange]
      do throws(LogStoreError) {
        found = try reader.damagedRanges(file: file, again: true)
      } catch {
        // As it was: it is looked at again in a while.
        continue
      }
      let isBetter = state.withLock { state in
        // No reader waits for the disk any more. Those that waited may have gone without a report.
        state.unreadable[file] = nil
        hasUnreadable.store(!state.unreadable.isEmpty, ordering: .relaxed)
        guard !state.seen.filter({ $0.damage.file == file }).isSubset(of: found) else { return false }
        state.forget(file)
        return true
      }
      // Also where nothing is better: what look-ups alone have met was not passed over by anyone.
      for range in found { report(range) }
      guard isBetter else { continue }
      logger?.notice("a damaged file can be read again", metadata: ["log": "\(name)", "file": "\(file)"])
      for range in state.withLock({ $0.seen }) where range.damage.file != file && !range.offsets.isEmpty { find(range) }
    }
  }

  // MARK: - Payments

  /// Notes that a payment is not what its events say. Logged the first time.
  func note(_ id: PaymentID, _ concern: Concern, reason: @autoclosure () -> String) {
    let isNew = state.withLock { state in
      guard state.concerns[id] != concern, state.concerns.count < Self.concernLimit else { return false }
      state.concerns[id] = concern
      return true
    }
    hasConcerns.store(true, ordering: .relaxed)
    if isNew {
      logger?.error("a payment can't be decided on", metadata: ["payment": "\(id)", "reason": "\(reason())"])
    }
  }

  /// Notes that all of a payment was read. One load where nothing is wrong with any.
  func isWell(_ id: PaymentID) {
    if hasConcerns.load(ordering: .relaxed) { state.withLock { $0.concerns[id] = nil } }
  }

  /// Notes that a step which was skipped goes on.
  func resumed(_ id: PaymentID, _ work: PaymentWork) {
    state.withLock { $0.skipped.removeAll { $0.id == id && $0.work == work } }
  }

  /// What is known to be wrong with a payment; nil for nearly all.
  public func concern(_ id: PaymentID) -> Concern? {
    state.withLock { state in
      if let known = state.concerns[id] { return known }
      guard !state.lostStreams.isEmpty else { return nil }
      return state.lostStreams.contains(LostEvent.key(ofStream: id.stream)) ? .incomplete : nil
    }
  }

  /// Notes work that was not done, since its payment can't be read.
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

  // MARK: - For people

  /// What there is to see; the first of each.
  public struct Summary: Sendable {
    public var ranges: [DamagedRange] = []
    /// Offsets without a readable event.
    public var lostEvents: UInt64 = 0
    /// Payments and other streams that are known to be concerned.
    public var incomplete = 0
    public var newer = 0
    public var isPartlyUnknown = false
    public var skipped: [Skipped] = []
    /// What the disk can't read at the moment.
    public var unreadable: [Damage] = []
    /// What a look-up met a moment ago, and of which it is not known yet how many events it concerns.
    public var met: [Damage] = []
  }

  public var summary: Summary {
    state.withLock { state in
      let incomplete = state.concerns.filter { $0.value == .incomplete }.keys
      let others = incomplete.count { !state.lostStreams.contains(LostEvent.key(ofStream: $0.stream)) }
      return Summary(
        ranges: state.ranges, lostEvents: state.lostCount, incomplete: state.lostStreams.count + others,
        newer: state.concerns.count - incomplete.count, isPartlyUnknown: state.isPartlyUnknown, skipped: state.skipped,
        unreadable: state.unreadable.values.map(\.damage).sorted { $0.file < $1.file },
        met: state.metFiles.filter { met in !state.seen.contains { $0.damage.file == met.key } }.values
          .sorted { $0.file < $1.file })
    }
  }

  /// One line for each damaged place, and one for what follows from all of them.
  public var warnings: [String] {
    let summary = summary
    var lines = summary.ranges.map { "the \(name) log: \($0)" }
    lines += summary.met.map { "the \(name) log: \($0)" }
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
