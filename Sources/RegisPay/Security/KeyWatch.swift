import Foundation
import LogStore
import Logging
import Synchronization

/// Keeps the keys in memory, and looks once a second whether they were changed on disk; a request is checked without a
/// look at the disk. What can't be read leaves the last known keys in force.
final class KeyWatch: Sendable {
  /// The times of last use are written no oftener, a key's first use aside.
  private static let noteInterval = Duration.seconds(60)
  /// A fault that lasts is logged no oftener: once a second would fill the log.
  private static let logInterval = Duration.seconds(10)
  /// How long a look may wait for another program, as it holds a thread; and for how long such looks are no fault.
  private static let patience = (look: Duration.milliseconds(100), fault: Duration.seconds(5))
  /// A checkpoint of this name on the log says that keys were made once. It is in every backup of the log: a server whose
  /// `keys.sqlite` was lost, or was not restored, does not open to everybody.
  static let checkpointName = "api-keys-required"

  private struct State {
    var store: KeyStore
    var file: UInt64?
    var changeCount: Int
    /// The last uses that were written, in seconds.
    var noted: [String: Int64] = [:]
  }

  private let directory: String
  private let mark: LogMark
  private let current: Mutex<KeyRing>
  private let state: Mutex<State>
  private let isNotedRequired = Atomic(false)
  private let health: Health
  private let logger: Logger

  /// Reads the keys; blocks for that.
  ///
  /// - Parameter isInsecure: starts without keys also where some were made once.
  init(
    _ directory: String, log: PaymentLog, isInsecure: Bool = false, health: Health, logger: Logger
  ) throws(KeyStoreError) {
    self.directory = directory
    mark = Self.mark(on: log)
    self.health = health
    self.logger = logger
    try Self.checkPresence(directory, mark, isInsecure)
    let store = try KeyStore.open(directory, patience: Self.patience.look)
    // Counted before they are read: a change between the two is read twice, not missed.
    let changeCount = try store.changeCount()
    current = Mutex(KeyRing(try store.all()))
    state = Mutex(State(store: store, file: Self.fileNumber(store.path), changeCount: changeCount))
  }

  private static func mark(on log: PaymentLog) -> LogMark { LogMark(name: checkpointName, noun: "key", log: log) }

  private static func checkPresence(
    _ directory: String, _ mark: LogMark, _ isInsecure: Bool
  ) throws(KeyStoreError) {
    let path = KeyStore.path(in: directory)
    let isRequired: Bool
    do throws(LogStoreError) {
      isRequired = try mark.isSet()
    } catch {
      throw KeyStoreError(
        path: path, reason: "the log doesn't tell whether keys were made: \(error)", kind: .inaccessible)
    }
    guard isRequired, !isInsecure, try KeyStore.keys(in: directory).isEmpty else { return }
    throw KeyStoreError(path: path, reason: mark.reason(path: path), kind: .gone)
  }

  var ring: KeyRing { current.withLock { $0 } }

  /// Looks again and again until its task is cancelled.
  ///
  /// - Parameter pause: what it does between two looks; it throws when the task is cancelled.
  func run(
    every interval: Duration, pause: (Duration) async throws -> Void = { try await Task.sleep(for: $0) }
  ) async {
    let clock = ContinuousClock()
    var noted = clock.now
    var lockedSince: ContinuousClock.Instant?
    var logged: ContinuousClock.Instant?
    var noteFailure: LogStoreError?
    while !Task.isCancelled {
      do throws(KeyStoreError) {
        try look()
        let isDue = noted.duration(to: clock.now) >= Self.noteInterval
        if isDue { noted = clock.now }
        try noteUse(ofAll: isDue)
        lockedSince = nil
        health.report(Self.healthName, fault: nil)
      } catch {
        lockedSince = error.kind == .locked ? lockedSince ?? clock.now : nil
        // A command that makes a key holds the file for a moment.
        let isFault = lockedSince.map { $0.duration(to: clock.now) >= Self.patience.fault } ?? true
        if isFault { health.report(Self.healthName, fault: "\(error); the keys that were read last stay in force") }
        if isFault, logged.map({ $0.duration(to: clock.now) >= Self.logInterval }) ?? true {
          logged = clock.now
          logger.error("the keys can't be read; the last known ones stay in force", metadata: ["error": "\(error)"])
        }
      }
      let failure = await noteRequired()
      if let failure, failure != noteFailure {
        logger.error("can't write down that keys were made", metadata: ["error": "\(failure)"])
      }
      noteFailure = failure
      // Throws only when the task is cancelled, which the loop's condition sees.
      try? await pause(interval)
    }
    // At the end nothing more can be done than what `look` has reported.
    try? noteUse()
  }

  private static let healthName = "keys"

  /// Puts it on the log that keys were made. While the log can't append, which it reports itself, it is tried again with every
  /// look.
  ///
  /// - Returns: what stands in the way.
  private func noteRequired() async -> LogStoreError? {
    guard !isNotedRequired.load(ordering: .relaxed), !ring.isEmpty else { return nil }
    do throws(LogStoreError) {
      try await mark.set(true)
      isNotedRequired.store(true, ordering: .relaxed)
      return nil
    } catch {
      return error
    }
  }

  /// Reads the keys if they were changed.
  func look() throws(KeyStoreError) {
    let ring = try state.withLock { (state: inout State) throws(KeyStoreError) -> KeyRing? in
      let file = Self.fileNumber(state.store.path)
      // Removed, it does not open the server; put back from a backup, it counts.
      guard let file else { throw KeyStoreError(path: state.store.path, reason: "it is gone", kind: .gone) }
      if file != state.file {
        state.store = try KeyStore.open(directory, patience: Self.patience.look)
        state.file = file
        state.changeCount = -1
      }
      let changeCount = try state.store.changeCount()
      guard changeCount != state.changeCount else { return nil }
      let ring = KeyRing(try state.store.all(), after: self.ring)
      state.changeCount = changeCount
      return ring
    }
    guard let ring else { return }
    // An empty file in the place of one with keys must not let everybody in.
    guard !ring.isEmpty || self.ring.isEmpty else { return }
    current.withLock { $0 = ring }
    logger.notice("the keys were changed", metadata: ["count": "\(ring.entries.count)"])
  }

  /// Writes down when keys were used.
  ///
  /// - Parameter ofAll: also of keys that were used before, not only of those that never were.
  func noteUse(ofAll: Bool = true) throws(KeyStoreError) {
    let entries = ring.entries.values
    try state.withLock { (state: inout State) throws(KeyStoreError) in
      let uses = entries.compactMap { entry -> (id: String, seconds: Int64)? in
        let seconds = entry.lastUsedSeconds.load(ordering: .relaxed)
        let known = max(entry.key.lastUsedSeconds ?? 0, state.noted[entry.key.id] ?? 0)
        return seconds > known && (ofAll || known == 0) ? (entry.key.id, seconds) : nil
      }
      guard !uses.isEmpty else { return }
      try state.store.noteUse(uses)
      for use in uses { state.noted[use.id] = use.seconds }
    }
  }

  private static func fileNumber(_ path: String) -> UInt64? {
    var status = stat()
    return stat(path, &status) == 0 ? UInt64(status.st_ino) : nil
  }
}
