import Foundation
import LogStore

/// A checkpoint on the log that says: a file beside the log holds what can't be made again. It is in every backup of the log. A
/// server whose file was lost, or was not restored, refuses to start instead of going on as if there had never been one.
///
/// Safe to use from any task.
struct LogMark: Sendable {
  /// The checkpoint's. No consumer has it.
  let name: String
  /// What the file holds, such as `key`.
  let noun: String
  let log: PaymentLog

  func isSet() throws(LogStoreError) -> Bool { try log.reader.cursor(name) != nil }

  /// Puts the mark on the log or takes it away. Appends only where that changes something.
  func set(_ isWanted: Bool) async throws(LogStoreError) {
    guard try isSet() != isWanted else { return }
    try await log.append(Append([], cursors: [isWanted ? CursorCommit(name: name, checkpoint: 0) : .deleting(name)]))
  }

  /// What is missing, where the log is marked and the file holds nothing.
  func reason(path: String) -> String {
    let isThere = FileManager.default.fileExists(atPath: path)
    return "\(isThere ? "it holds no \(noun)" : "it is gone"), and \(noun)s were made for this log"
  }
}
