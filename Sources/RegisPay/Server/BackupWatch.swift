import Dispatch
import Foundation
import Synchronization

/// Looks from time to time how old the latest backup in a directory is, so that the pages can show it. Another process makes the
/// backups (`regispay backup`), perhaps on another disk, which may hang: no thread that others wait for looks there.
final class BackupWatch: Sendable {
  private let directory: String
  private let storeID: String
  private let state: Mutex<State>
  private let queue = DispatchQueue(label: "backup")

  private struct State {
    var shown: LogRoutes.Backup
    var isLooking = false
  }

  /// - Parameter storeID: of the payments log, whose backups these should be.
  init(_ directory: String, storeID: String) {
    self.directory = URL(fileURLWithPath: directory).standardizedFileURL.path
    self.storeID = storeID
    state = Mutex(State(shown: .init(directory: self.directory)))
  }

  var shown: LogRoutes.Backup { state.withLock { $0.shown } }

  /// Looks until its task is cancelled.
  func run(every interval: Duration) async throws {
    while !Task.isCancelled {
      begin()
      try await Task.sleep(for: interval)
    }
  }

  /// Begins a look, unless one is going on.
  private func begin() {
    let begins = state.withLock { state in
      defer { state.isLooking = true }
      return !state.isLooking
    }
    guard begins else { return }
    queue.async {
      let found = self.look()
      self.state.withLock { $0 = State(shown: found) }
    }
  }

  private func look() -> LogRoutes.Backup {
    var shown = LogRoutes.Backup(directory: directory)
    do throws(DataBackupError) {
      let set = try BackupSet(in: directory)
      shown.microseconds = UInt64(max(0, set.time.timeIntervalSince1970) * 1_000_000)
      shown.events = set.events
      // An earlier version wrote more digits.
      if !set.storeID.hasPrefix(storeID), !storeID.hasPrefix(set.storeID) {
        shown.fault = "it is of another log, with the id \(set.storeID)"
      }
    } catch {
      shown.fault = "\(error)"
    }
    return shown
  }
}
