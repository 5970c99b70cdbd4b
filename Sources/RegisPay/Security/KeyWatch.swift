import Foundation
import LogStore
import Logging
import Synchronization

/// Keeps the keys in memory and checks once a second whether they changed on disk, so that a request needs no disk access. If the file
/// can't be read, the last known keys stay valid.
final class KeyWatch: Sendable {
  /// The shortest time between two writes of the times of last use, except for a key's first use.
  private static let useInterval = Duration.seconds(60)
  /// The shortest time between two log lines about a lasting fault: one a second would fill the log.
  private static let logInterval = Duration.seconds(10)
  /// `check`: how long a check may block its thread while another program has the file locked. `fault`: how long a locked file is not
  /// reported as a fault.
  private static let patience = (check: Duration.milliseconds(100), fault: Duration.seconds(5))
  /// A checkpoint of this name on the log records that keys were created. It is in every backup of the log: a server whose
  /// `keys.sqlite` was lost, or was not restored, does not open to everybody.
  static let checkpointName = "api-keys-required"

  private struct State {
    var store: KeyStore
    var file: UInt64?
    var changeCount: Int
    /// The times of last use on disk, in seconds.
    var recordedUses: [String: Int64] = [:]
  }

  private let directory: String
  private let mark: LogMark
  private let current: Mutex<KeyRing>
  private let state: Mutex<State>
  private let isMarkSet = Atomic(false)
  private let health: Health
  private let logger: Logger

  /// Reads the keys; blocks for that.
  ///
  /// - Parameter isInsecure: starts without keys even if keys were created before.
  init(
    _ directory: String, log: any MarkedLog, isInsecure: Bool = false, health: Health, logger: Logger
  ) throws(KeyStoreError) {
    self.directory = directory
    mark = Self.mark(on: log)
    self.health = health
    self.logger = logger
    try Self.checkPresence(directory, mark, isInsecure)
    let (store, changeCount, keys) = try LockedDatabase.openWhenReleased(isLocked: { $0.kind == .locked }) {
      () throws(KeyStoreError) in
      let store = try KeyStore.open(directory, patience: Self.patience.check)
      // Counted before the keys are read: a change between the two is read twice and not missed.
      let changeCount = try store.changeCount()
      return (store, changeCount, try store.all())
    }
    current = Mutex(KeyRing(keys))
    state = Mutex(State(store: store, file: Self.fileNumber(store.path), changeCount: changeCount))
  }

  private static func mark(on log: any MarkedLog) -> LogMark { LogMark(name: checkpointName, noun: "key", log: log) }

  private static func checkPresence(
    _ directory: String, _ mark: LogMark, _ isInsecure: Bool
  ) throws(KeyStoreError) {
    let path = KeyStore.path(in: directory)
    let isRequired: Bool
    do throws(LogStoreError) {
      isRequired = try mark.isSet()
    } catch {
      throw KeyStoreError(
        path: path, reason: "can't read from the log whether keys were created: \(error)", kind: .inaccessible)
    }
    guard isRequired, !isInsecure, try KeyStore.keys(in: directory).isEmpty else { return }
    throw KeyStoreError(path: path, reason: mark.reason(path: path), kind: .gone)
  }

  var ring: KeyRing { current.withLock { $0 } }

  /// Checks the file periodically until its task is cancelled.
  ///
  /// - Parameter pause: waits between two checks; throws when the task is cancelled.
  func run(
    every interval: Duration, pause: (Duration) async throws -> Void = { try await Task.sleep(for: $0) }
  ) async {
    let clock = ContinuousClock()
    var recorded = clock.now
    var lockedSince: ContinuousClock.Instant?
    var logged: ContinuousClock.Instant?
    var markFailure: LogStoreError?
    while !Task.isCancelled {
      do throws(KeyStoreError) {
        try reloadIfChanged()
        let isDue = recorded.duration(to: clock.now) >= Self.useInterval
        if isDue { recorded = clock.now }
        try recordUse(ofAll: isDue)
        lockedSince = nil
        health.report(Self.healthName, fault: nil)
      } catch {
        lockedSince = error.kind == .locked ? lockedSince ?? clock.now : nil
        // A command that creates a key locks the file for a moment.
        let isFault = lockedSince.map { $0.duration(to: clock.now) >= Self.patience.fault } ?? true
        // The error's own advice is for a program that has ended.
        let reason =
          error.kind == .locked
          ? "\(error.path): \(error.reason); the server reads it as soon as that program releases it" : "\(error)"
        if isFault { health.report(Self.healthName, fault: "\(reason); the keys that were read last stay valid") }
        if isFault, logged.map({ $0.duration(to: clock.now) >= Self.logInterval }) ?? true {
          logged = clock.now
          logger.error("can't read the keys; the last known keys stay valid", metadata: ["error": "\(reason)"])
        }
      }
      let failure = await setMark()
      if let failure, failure != markFailure {
        logger.error("can't record on the log that keys were created", metadata: ["error": "\(failure)"])
      }
      markFailure = failure
      // Throws only when the task is cancelled, which the loop's condition sees.
      try? await pause(interval)
    }
    // A failure is lost here, but the last check has reported that the file can't be used.
    try? recordUse()
  }

  private static let healthName = "keys"

  /// Records on the log that keys were created. While the log can't append, which it reports itself, every check tries again.
  ///
  /// - Returns: the error, if any.
  private func setMark() async -> LogStoreError? {
    guard !isMarkSet.load(ordering: .relaxed), !ring.isEmpty else { return nil }
    do throws(LogStoreError) {
      try await mark.set(true)
      isMarkSet.store(true, ordering: .relaxed)
      return nil
    } catch {
      return error
    }
  }

  /// All keys, oldest first, each with its last use until now.
  var all: [StoredKey] {
    ring.entries.values.map { entry in
      var key = entry.key
      let used = entry.lastUsedSeconds.load(ordering: .relaxed)
      if used > 0 { key.lastUsedSeconds = max(key.lastUsedSeconds ?? 0, used) }
      return key
    }.sorted { ($0.createdSeconds, $0.id) < ($1.createdSeconds, $1.id) }
  }

  /// Creates a key, which is in force when the call returns. Blocks for the disk; see ``KeyStore/create(name:owner:scopes:lifetimeSeconds:)``.
  func create(
    name: String, owner: String?, scopes: Set<KeyScope>, lifetimeSeconds: Int64?
  ) throws(KeyStoreError) -> APIKey {
    try change { store throws(KeyStoreError) in
      try store.create(name: name, owner: owner, scopes: scopes, lifetimeSeconds: lifetimeSeconds)
    }
  }

  /// Revokes a key, which lets nobody in when the call returns. Blocks for the disk.
  ///
  /// - Returns: whether the key exists.
  func revoke(_ id: String) throws(KeyStoreError) -> Bool {
    try change { store throws(KeyStoreError) in try store.revoke(id) }
  }

  private func change<Value>(_ work: (KeyStore) throws(KeyStoreError) -> Value) throws(KeyStoreError) -> Value {
    try state.withLock { (state: inout State) throws(KeyStoreError) -> Value in
      // So that the file that has the name now is changed, and not one that had it before.
      try reload(&state)
      let value = try work(state.store)
      // The count tells of others' changes only.
      state.changeCount = -1
      try reload(&state)
      return value
    }
  }

  /// Reads the keys if they changed on disk.
  func reloadIfChanged() throws(KeyStoreError) {
    try state.withLock { (state: inout State) throws(KeyStoreError) in try reload(&state) }
  }

  private func reload(_ state: inout State) throws(KeyStoreError) {
    let file = Self.fileNumber(state.store.path)
    // A removed file does not open the server; a restored file counts.
    guard let file else { throw KeyStoreError(path: state.store.path, reason: "it is gone", kind: .gone) }
    if file != state.file {
      state.store = try KeyStore.open(directory, patience: Self.patience.check)
      state.file = file
      state.changeCount = -1
    }
    let changeCount = try state.store.changeCount()
    guard changeCount != state.changeCount else { return }
    let ring = KeyRing(try state.store.all(), after: self.ring)
    // An empty file in place of one with keys does not open the server. Reported at each check, until the keys are there again.
    guard !ring.isEmpty || self.ring.isEmpty else {
      throw KeyStoreError(path: state.store.path, reason: mark.reason(path: state.store.path), kind: .gone)
    }
    state.changeCount = changeCount
    // Before the state is free: an older ring after a newer one would let revoked keys in again.
    current.withLock { $0 = ring }
    logger.notice("keys changed", metadata: ["count": "\(ring.entries.count)"])
  }

  /// Writes the times of last use to disk.
  ///
  /// - Parameter ofAll: false writes only the first use of each key.
  func recordUse(ofAll: Bool = true) throws(KeyStoreError) {
    let entries = ring.entries.values
    try state.withLock { (state: inout State) throws(KeyStoreError) in
      let uses = entries.compactMap { entry -> (id: String, seconds: Int64)? in
        let seconds = entry.lastUsedSeconds.load(ordering: .relaxed)
        let known = max(entry.key.lastUsedSeconds ?? 0, state.recordedUses[entry.key.id] ?? 0)
        return seconds > known && (ofAll || known == 0) ? (entry.key.id, seconds) : nil
      }
      guard !uses.isEmpty else { return }
      try state.store.recordUse(uses)
      for use in uses { state.recordedUses[use.id] = use.seconds }
    }
  }

  private static func fileNumber(_ path: String) -> UInt64? {
    fileStatus(at: path).map { UInt64($0.st_ino) }
  }
}
