import Foundation
import Logging
import Synchronization

/// Keeps the keys in memory, and looks once a second whether they were changed on disk; a request is checked without a
/// look at the disk. What can't be read leaves the last known keys in force.
final class KeyWatch: Sendable {
  /// The times of last use are written no oftener, a key's first use aside.
  private static let noteInterval = Duration.seconds(60)

  private struct State {
    var store: KeyStore
    var file: UInt64?
    var changeCount: Int
    /// The last uses that were written, in seconds.
    var noted: [String: Int64] = [:]
  }

  private let directory: String
  private let current: Mutex<KeyRing>
  private let state: Mutex<State>
  private let health: Health
  private let logger: Logger

  /// Reads the keys; blocks for that.
  init(_ directory: String, health: Health, logger: Logger) throws(KeyStoreError) {
    self.directory = directory
    self.health = health
    self.logger = logger
    let store = try KeyStore.open(directory)
    // Counted before they are read: a change between the two is read twice, not missed.
    let changeCount = try store.changeCount()
    current = Mutex(KeyRing(try store.all()))
    state = Mutex(State(store: store, file: Self.fileNumber(store.path), changeCount: changeCount))
  }

  var ring: KeyRing { current.withLock { $0 } }

  /// Looks again and again until its task is cancelled.
  func run(every interval: Duration) async {
    let clock = ContinuousClock()
    var noted = clock.now
    while !Task.isCancelled {
      try? await Task.sleep(for: interval)
      do {
        try look()
        let isDue = noted.duration(to: clock.now) >= Self.noteInterval
        if isDue { noted = clock.now }
        try noteUse(ofAll: isDue)
        health.report(Self.healthName, fault: nil)
      } catch {
        health.report(Self.healthName, fault: "\(error); the keys that were read last stay in force")
        logger.error("the keys can't be read; the last known ones stay in force", metadata: ["error": "\(error)"])
        // The disk is in trouble, or somebody changes the file by hand: once a second would fill the log.
        try? await Task.sleep(for: .seconds(10))
      }
    }
    // At the end nothing more can be done than what `look` has reported.
    try? noteUse()
  }

  private static let healthName = "keys"

  /// Reads the keys if they were changed.
  func look() throws(KeyStoreError) {
    let ring = try state.withLock { (state: inout State) throws(KeyStoreError) -> KeyRing? in
      let file = Self.fileNumber(state.store.path)
      // Removed, it does not open the server; put back from a backup, it counts.
      guard let file else { throw KeyStoreError(path: state.store.path, reason: "it is gone") }
      if file != state.file {
        state.store = try KeyStore.open(directory)
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
