import GRDB

extension DatabasePool {
  /// Closes the file, with its write-ahead log merged into it: the file alone is whole then, for somebody who copies it.
  ///
  /// SQLite merges by itself only when the last connection to be closed may write. A pool's readers are closed last, and may
  /// not.
  ///
  /// - Throws: why it is not merged or not closed. Nothing is lost: the log beside the file has what the file lacks.
  func closeWhole() throws {
    let merged = Result { try writeWithoutTransaction { _ = try $0.checkpoint(.truncate) } }
    try close()
    try merged.get()
  }
}
