import CLinux
import Foundation
import Logging
import Synchronization

/// Keeps a crash at the start from repeating for ever, when work that is due at each start is what ends the process.
///
/// Two files in the data directory say how processes ended: in `crashed` a process that gets a signal of a crash leaves a
/// mark, and `starts` counts crashes in a row, each within ``settling`` of its start. After ``crashLimit`` of them the
/// process starts with care: work that was due before is done one at a time, with a pause between, after the API has been
/// there for a while, and `starts` names it while it is in flight. What was in flight at ``crashLimit`` such crashes is
/// not done again: it is reported as suspended, once, for a person to decide on. Work that is new goes on at full speed, but
/// for messages to a webhook's endpoint that has not taken one in this process yet.
/// A process that was killed, or lost its power, is no crash and changes nothing.
///
/// Without care it costs one comparison for each piece of work. Safe to use from any task.
final class CarefulStart: Sendable {
  struct Pace: Sendable {
    /// A process that has run for so long has started well.
    var settling = Duration.seconds(60)
    /// The same, while what was due is done with care.
    var carefulSettling = Duration.seconds(600)
    /// How long after the start the first of it is done.
    var delay = Duration.seconds(3)
    /// Between two pieces of it.
    var pause = Duration.milliseconds(200)

    init() {}
  }

  private struct State {
    var crashCount = 0
    /// What is done with care just now.
    var inFlight: String?
    /// How many crashes each was in flight at.
    var suspects: [String: Int] = [:]
    var begins: ContinuousClock.Instant
    /// Tickets that were given out.
    var ticketCount = 0
    /// What is suspended: up to and including this ticket, or whatever the ticket until ``conclude(_:)`` is called.
    var suspended: [String: Int] = [:]
    /// The start went well: a crash after it is none of the start.
    var isOver = false
  }

  static let crashLimit = 2

  /// When the process started; payments from before are due, in milliseconds since 1970.
  let startMilliseconds = Clock.microseconds() / 1_000
  private let isCareful: Bool
  private let pace: Pace
  private let path: String?
  private let logger: Logger
  private let state: Mutex<State>

  /// One that is never careful and keeps nothing.
  init() {
    isCareful = false
    pace = Pace()
    path = nil
    logger = Logger(label: "none") { _ in SwiftLogNoOpLogHandler() }
    state = Mutex(State(begins: .now))
  }

  /// Reads how the processes before ended, and begins to note how this one does. Blocks for the files. To be called by the
  /// one process that has the directory's lock.
  ///
  /// - Parameter marksCrashes: false for several in one process.
  init(_ directory: String, pace: Pace = Pace(), marksCrashes: Bool = true, logger: Logger) {
    self.pace = pace
    self.logger = logger
    path = directory + "/starts"
    var state = Self.read(directory + "/starts", logger)
    let hadSettled = state.isOver
    state.isOver = false
    do throws(PrivateFiles.Failure) {
      try PrivateFiles.makeFile(directory + "/crashed", tightens: true)
    } catch {
      logger.warning("a crash can't be noted", metadata: ["reason": "\(error)"])
    }
    let mark = open(directory + "/crashed", O_RDWR | O_CLOEXEC)
    if mark >= 0 {
      var byte: UInt8 = 0
      if pread(mark, &byte, 1, 0) == 1, byte == UInt8(ascii: "!"), !hadSettled {
        state.crashCount += 1
        if let inFlight = state.inFlight { state.suspects[inFlight, default: 0] += 1 }
      }
      ftruncate(mark, 0)
      // Open for as long as the process is.
      if marksCrashes { clinux_mark_crash(mark) } else { close(mark) }
    } else {
      logger.warning("a crash can't be noted", metadata: ["reason": "\(String(cString: strerror(errno)))"])
    }
    state.inFlight = nil
    isCareful = state.crashCount >= Self.crashLimit
    state.begins = .now + pace.delay
    self.state = Mutex(state)
    self.state.withLock { write($0) }
    if isCareful { for line in warnings { logger.error("\(line)") } }
  }

  /// Whether the last process, which may not be gone yet, has left the mark of a crash.
  static func isMarked(_ directory: String) -> Bool {
    // What is no file here is none of this program's.
    let mark = open(directory + "/crashed", O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard mark >= 0 else { return false }
    defer { close(mark) }
    var byte: UInt8 = 0
    return pread(mark, &byte, 1, 0) == 1 && byte == UInt8(ascii: "!")
  }

  /// For ``Health``; empty without care.
  var warnings: [String] {
    guard isCareful else { return [] }
    return state.withLock { state in
      guard !state.isOver else { return [] }
      let suspects = state.suspects.keys.sorted().joined(separator: ", ")
      return [
        "the last \(state.crashCount) processes crashed soon after their start: what was due is done one at a time"
          + (suspects.isEmpty ? "" : "; in flight at a crash: \(suspects)")
      ]
    }
  }

  /// Returns when the process has started well; to be run beside it. Throws when it is cancelled before.
  func run() async throws {
    try await Task.sleep(for: isCareful ? pace.carefulSettling : pace.settling)
    settle()
  }

  /// The process has started well, or it ends as it should.
  func settle() {
    state.withLock { state in
      state.isOver = true
      (state.crashCount, state.suspects) = (0, [:])
      write(state)
    }
  }

  /// For work that is asked for now.
  var ticket: Int? {
    guard isCareful else { return nil }
    return state.withLock { state in
      state.ticketCount += 1
      return state.ticketCount
    }
  }

  /// That work of this name is suspended is recorded: what was asked for until now stays so, and what is asked for later
  /// was asked for by a person.
  func conclude(_ name: String) {
    state.withLock { state in
      if state.suspended[name] != nil { state.suspended[name] = state.ticketCount }
    }
  }

  /// Does a piece of work that may have been in flight at a crash. Work of a name that is suspended stays so until
  /// ``conclude(_:)``.
  ///
  /// - Parameters:
  ///   - name: the same in every process.
  ///   - isSuspect: it may be what crashed the processes before: it was there before this process was, or it goes to
  ///     a peer that was.
  ///   - ticket: taken when the work was asked for; nil for now. See ``conclude(_:)``.
  ///   - suspended: what is returned instead when it was in flight at two crashes.
  func perform<Result: Sendable>(
    _ name: String, isSuspect: Bool, ticket: Int? = nil, suspended: Result, _ work: () async -> Result
  ) async -> Result {
    guard isCareful, isSuspect else { return await work() }
    while let turn = takeTurn(name, ticket) {
      switch turn {
      case .suspended:
        logger.error(
          "in flight at \(Self.crashLimit) crashes, and not done again by itself", metadata: ["work": "\(name)"])
        return suspended
      case .wait:
        // Few wait, and for a short time: looking again is enough. Cancelled, the work sees it at once.
        try? await Task.sleep(for: pace.pause / 4)
        if Task.isCancelled { return await work() }
      case .own:
        let result = await work()
        endTurn()
        return result
      }
    }
    return await work()
  }

  private enum Turn { case own, wait, suspended }

  /// - Returns: nil when care is over.
  private func takeTurn(_ name: String, _ ticket: Int?) -> Turn? {
    state.withLock { state in
      guard !state.isOver else { return nil }
      if state.suspects[name, default: 0] >= Self.crashLimit {
        state.suspects[name] = nil
        state.suspended[name] = .max
        write(state)
        return .suspended
      }
      if let last = state.suspended[name], ticket ?? .max <= last { return .suspended }
      guard state.inFlight == nil, state.begins <= .now else { return .wait }
      state.inFlight = name
      write(state)
      return .own
    }
  }

  private func endTurn() {
    state.withLock { state in
      state.inFlight = nil
      state.begins = .now + pace.pause
      write(state)
    }
  }

  // MARK: - The file

  /// What can't be read counts as nothing: a start must not fail because of it.
  private static func read(_ path: String, _ logger: Logger) -> State {
    var state = State(begins: .now)
    let bytes: [UInt8]
    do throws(SmallFile.Failure) {
      guard let found = try SmallFile.read(path) else { return state }
      bytes = found
    } catch {
      logger.warning("what is known of earlier starts can't be read", metadata: ["reason": "\(error)"])
      return state
    }
    guard let json = try? JSONReader.read(bytes), case .number(let count)? = json["crashes"] else {
      logger.warning("what is known of earlier starts can't be read", metadata: ["file": "\(path)"])
      return state
    }
    state.crashCount = Int(count) ?? 0
    state.inFlight = json["inFlight"]?.text
    state.isOver = json["isOver"] == .bool(true)
    if case .object(let members)? = json["suspects"] {
      for member in members {
        if case .number(let count) = member.value { state.suspects[member.key] = Int(count) ?? 0 }
      }
    }
    return state
  }

  /// Not synced: it is about crashes of the process, which the system's cache survives.
  private func write(_ state: State) {
    guard let path else { return }
    let json: JSONValue = [
      "crashes": .integer(state.crashCount), "isOver": .bool(state.isOver),
      "inFlight": state.inFlight.map(JSONValue.string) ?? .null,
      "suspects": .object(state.suspects.sorted { $0.key < $1.key }.map { .init($0.key, .integer($0.value)) }),
    ]
    do throws(SmallFile.Failure) {
      try SmallFile.write(json.bytes, to: path)
    } catch {
      logger.warning("how this process starts can't be noted", metadata: ["reason": "\(error)"])
    }
  }
}

/// Makes a provider's calls with care after crashes. What was in flight at two of them has an outcome that nobody knows.
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
    // Of a step there is one try at a time.
    start.conclude(name)
    return .unreadable(reason: "the process crashed twice while this call was in flight; it was not made again")
  }
}
