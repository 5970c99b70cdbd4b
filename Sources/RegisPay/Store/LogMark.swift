import Foundation
import LogStore

/// A log that a ``LogMark`` can be set on.
protocol MarkedLog: Sendable {
  var reader: LogReader { get }

  @discardableResult
  func append(_ append: Append) async throws(LogStoreError) -> Appended
}

extension PaymentLog: MarkedLog {}

/// A named cursor on the log that means: a file beside the log holds data that can't be rebuilt. Every backup of the log has the
/// mark. A server whose file was lost or not restored refuses to start instead of working as if the file had never existed.
///
/// Safe to use from any task.
struct LogMark: Sendable {
  /// The cursor's name. No consumer uses it.
  let name: String
  /// What the file holds, such as `key`.
  let noun: String
  let log: any MarkedLog

  func isSet() throws(LogStoreError) -> Bool { try log.reader.cursor(name) != nil }

  /// Sets or removes the mark. Appends only when that changes something.
  func set(_ isWanted: Bool) async throws(LogStoreError) {
    guard try isSet() != isWanted else { return }
    try await log.append(Append([], cursors: [isWanted ? CursorCommit(name: name, checkpoint: 0) : .deleting(name)]))
  }

  /// Why the server can't start when the log is marked and the file holds nothing.
  func reason(path: String) -> String { Self.reason(noun: noun, path: path) }

  static func reason(noun: String, path: String) -> String {
    let isThere = FileManager.default.fileExists(atPath: path)
    return "\(isThere ? "it holds no \(noun)" : "it is gone"), and \(noun)s were made for this log"
  }
}
