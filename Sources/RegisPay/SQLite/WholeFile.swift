import GRDB

extension DatabasePool {
  /// Merges the write-ahead log into the file and closes it, so that a copy of the file alone is complete.
  ///
  /// SQLite merges on its own only when the last connection to close may write. A pool closes its readers last, and they may
  /// not write.
  ///
  /// - Throws: the error of the merge or of the close. No data is lost: the write-ahead log beside the file has what the file
  ///   lacks.
  func closeWhole() throws {
    let merged = Result { try writeWithoutTransaction { _ = try $0.checkpoint(.truncate) } }
    try close()
    try merged.get()
  }
}
