import CLinux
import Foundation
import Logging
import Synchronization

/// Keeps a crash at the start from repeating for ever, when work that is due at each start crashes the process.
///
/// Two files in the data directory record how processes ended: a process that crashes leaves a mark in `crashed`, and `starts` counts
/// consecutive crashes, each within ``Pace/stableAfter`` of its start. After ``crashLimit`` of them the process starts carefully: it
/// does work that was due before one piece at a time, with pauses, after the API has been available for a while, and `starts` names
/// the piece in flight. Work that was in flight at ``crashLimit`` such crashes is not repeated: it is suspended and reported once, for
/// a person to decide. New work runs at full speed, except messages to a webhook endpoint that has not completed one in this process.
/// A kill or a power cut is not a crash and changes nothing.
///
/// In a normal start it costs one comparison for each piece of work. Safe to use from any task.
final class CarefulStart: Sendable {
  struct Pace: Sendable {
    /// After this time a normal start counts as successful.
    var stableAfter = Duration.seconds(60)
    /// After this time a careful start counts as successful.
    var carefulStableAfter = Duration.seconds(600)
    /// How long after a careful start the first piece of due work runs.
    var delay = Duration.seconds(3)
    /// Pause between two pieces.
    var pause = Duration.milliseconds(200)

    init() {}
  }

  private struct State {
    var crashCount = 0
    /// The piece of careful work that is in flight.
    var inFlight: String?
    /// At how many crashes each piece of work was in flight.
    var suspects: [String: Int] = [:]
    /// When the next piece may begin.
    var nextBegin: ContinuousClock.Instant
    /// The number of tickets issued.
    var ticketCount = 0
    /// The suspended work, each with the last ticket that it applies to; to all tickets until ``conclude(_:)`` is called.
    var suspended: [String: Int] = [:]
    /// The start was successful; a later crash does not count.
    var isStable = false
  }

  static let crashLimit = 2

  /// When the process started, in milliseconds since 1970; payments from before are due work.
  let startMilliseconds = Clock.microseconds() / 1_000
  private let isCareful: Bool
  private let pace: Pace
  private let path: String?
  private let logger: Logger
  private let state: Mutex<State>

  /// An instance that is never careful and stores nothing.
  init() {
    isCareful = false
    pace = Pace()
    path = nil
    logger = Logger(label: "none") { _ in SwiftLogNoOpLogHandler() }
    state = Mutex(State(nextBegin: .now))
  }

  /// Reads how earlier processes ended, and starts to record how this one ends. Blocks for the files. Only the process that holds the
  /// directory's lock may call it.
  ///
  /// - Parameter marksCrashes: false if several instances exist in one process.
  init(_ directory: String, pace: Pace = Pace(), marksCrashes: Bool = true, logger: Logger) {
    self.pace = pace
    self.logger = logger
    path = directory + "/starts"
    var state = Self.read(directory + "/starts", logger)
    let wasStable = state.isStable
    state.isStable = false
    do throws(PrivateFiles.Failure) {
      try PrivateFiles.makeFile(directory + "/crashed", tightens: true)
    } catch {
      logger.warning("crashes can't be recorded", metadata: ["reason": "\(error)"])
    }
    let mark = open(directory + "/crashed", O_RDWR | O_CLOEXEC)
    if mark >= 0 {
      var byte: UInt8 = 0
      if pread(mark, &byte, 1, 0) == 1, byte == UInt8(ascii: "!"), !wasStable {
        state.crashCount += 1
        if let inFlight = state.inFlight { state.suspects[inFlight, default: 0] += 1 }
      }
      ftruncate(mark, 0)
      // Stays open until the process ends.
      if marksCrashes { clinux_mark_crash(mark) } else { close(mark) }
    } else {
      logger.warning("crashes can't be recorded", metadata: ["reason": "\(String(cString: strerror(errno)))"])
    }
    state.inFlight = nil
    isCareful = state.crashCount >= Self.crashLimit
    state.nextBegin = .now + pace.delay
    self.state = Mutex(state)
    self.state.withLock { write($0) }
    if isCareful { for line in warnings { logger.error("\(line)") } }
  }

  /// Whether the last process, which may still be ending, left the mark of a crash.
  static func isMarked(_ directory: String) -> Bool {
    // Does not block on a FIFO, which this program did not create.
    let mark = open(directory + "/crashed", O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard mark >= 0 else { return false }
    defer { close(mark) }
    var byte: UInt8 = 0
    return pread(mark, &byte, 1, 0) == 1 && byte == UInt8(ascii: "!")
  }

  /// For ``Health``; empty after a normal start.
  var warnings: [String] {
    guard isCareful else { return [] }
    return state.withLock { state in
      guard !state.isStable else { return [] }
      let suspects = state.suspects.keys.sorted().joined(separator: ", ")
      return [
        "the last \(state.crashCount) processes crashed soon after their start: due work runs one piece at a time"
          + (suspects.isEmpty ? "" : "; in flight at a crash: \(suspects)")
      ]
    }
  }

  /// Returns once the start counts as successful. Throws when its task is cancelled before.
  func run() async throws {
    try await Task.sleep(for: isCareful ? pace.carefulStableAfter : pace.stableAfter)
    markStable()
  }

  /// The start was successful, or the process ends normally.
  func markStable() {
    state.withLock { state in
      state.isStable = true
      (state.crashCount, state.suspects) = (0, [:])
      write(state)
    }
  }

  /// A ticket for work that is requested now; nil after a normal start.
  var ticket: Int? {
    guard isCareful else { return nil }
    return state.withLock { state in
      state.ticketCount += 1
      return state.ticketCount
    }
  }

  /// The caller has recorded that work of this name is suspended. Work requested until now stays suspended; later work was requested
  /// by a person and runs.
  func conclude(_ name: String) {
    state.withLock { state in
      if state.suspended[name] != nil { state.suspended[name] = state.ticketCount }
    }
  }

  /// Runs a piece of work that may have been in flight at a crash. Suspended work stays suspended until ``conclude(_:)``.
  ///
  /// - Parameters:
  ///   - name: the same in every process.
  ///   - isSuspect: the work may have crashed earlier processes: it existed before this process, or it goes to a peer that did.
  ///   - ticket: taken when the work was requested; nil for now. See ``conclude(_:)``.
  ///   - suspended: the result if the work was in flight at ``crashLimit`` crashes.
  func perform<Result: Sendable>(
    _ name: String, isSuspect: Bool, ticket: Int? = nil, suspended: Result, _ work: () async -> Result
  ) async -> Result {
    guard isCareful, isSuspect else { return await work() }
    while let turn = takeTurn(name, ticket) {
      switch turn {
      case .suspended:
        logger.error(
          "work suspended: it was in flight at \(Self.crashLimit) crashes", metadata: ["work": "\(name)"])
        return suspended
      case .wait:
        // Few tasks wait, and for a short time, so polling suffices. After a cancellation the work sees it at once.
        try? await Task.sleep(for: pace.pause / 4)
        if Task.isCancelled { return await work() }
      case .own:
        let result = await work()
        // What a peer sent may crash the process a moment after the call has ended: it is blamed until then. Ends early only when the
        // server stops.
        try? await Task.sleep(for: pace.pause)
        endTurn()
        return result
      }
    }
    return await work()
  }

  private enum Turn { case own, wait, suspended }

  /// - Returns: nil if the start is stable.
  private func takeTurn(_ name: String, _ ticket: Int?) -> Turn? {
    state.withLock { state in
      guard !state.isStable else { return nil }
      if state.suspects[name, default: 0] >= Self.crashLimit {
        state.suspects[name] = nil
        state.suspended[name] = .max
        write(state)
        return .suspended
      }
      if let last = state.suspended[name], ticket ?? .max <= last { return .suspended }
      guard state.inFlight == nil, state.nextBegin <= .now else { return .wait }
      state.inFlight = name
      write(state)
      return .own
    }
  }

  private func endTurn() {
    state.withLock { state in
      state.inFlight = nil
      state.nextBegin = .now
      write(state)
    }
  }

  // MARK: - The file

  /// An unreadable file counts as empty: it must not keep the server from starting.
  private static func read(_ path: String, _ logger: Logger) -> State {
    var state = State(nextBegin: .now)
    let bytes: [UInt8]
    do throws(SmallFile.Failure) {
      guard let found = try SmallFile.read(path) else { return state }
      bytes = found
    } catch {
      logger.warning("can't read the record of earlier starts", metadata: ["reason": "\(error)"])
      return state
    }
    guard let json = try? JSONReader.read(bytes), case .number(let count)? = json["crashes"] else {
      logger.warning("can't read the record of earlier starts", metadata: ["file": "\(path)"])
      return state
    }
    state.crashCount = Int(count) ?? 0
    state.inFlight = json["inFlight"]?.text
    state.isStable = json["isOver"] == .bool(true)
    if case .object(let members)? = json["suspects"] {
      for member in members {
        if case .number(let count) = member.value { state.suspects[member.key] = Int(count) ?? 0 }
      }
    }
    return state
  }

  /// Not synced: the system's cache survives a crash of the process.
  private func write(_ state: State) {
    guard let path else { return }
    let json: JSONValue = [
      "crashes": .integer(state.crashCount), "isOver": .bool(state.isStable),
      "inFlight": state.inFlight.map(JSONValue.string) ?? .null,
      "suspects": .object(state.suspects.sorted { $0.key < $1.key }.map { .init($0.key, .integer($0.value)) }),
    ]
    do throws(SmallFile.Failure) {
      try SmallFile.write(json.bytes, to: path)
    } catch {
      logger.warning("can't record this start", metadata: ["reason": "\(error)"])
    }
  }
}

/// Makes a provider's calls carefully after crashes. A call that was in flight at two crashes gets an unknown outcome.
struct CarefulProvider: StepProvider {
  let provider: any StepProvider
  let start: CarefulStart

  func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome {
    let name = "payment \(payment.id) \(work)"
    let isSuspect = payment.id.milliseconds < start.startMilliseconds
    let outcome: CallOutcome? = await start.perform(name, isSuspect: isSuspect, suspended: nil) {
      await provider.perform(work, for: payment)
    }
    if let outcome { return outcome }
    // A step has one try at a time, so no other ticket of this name is in use.
    start.conclude(name)
    return .unreadable(reason: "the process crashed twice while this call was in flight; it was not made again")
  }
}
