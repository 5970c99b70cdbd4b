import CWALIndex

/// The index of a database's write-ahead log: in memory for a database that this process alone opens. As a file it would be
/// mapped, and a page of it that the disk can't read would end the process.
enum WALIndex {
  struct Failure: Error, CustomStringConvertible {
    /// SQLite's.
    var code: Int32

    var description: String { "its log's index can't be kept in memory: SQLite error \(code)" }
  }

  /// To be called before the first connection is opened. What an earlier version has left of the file is not used.
  static func keepInMemory(of path: String) throws(Failure) {
    let code = cwal_keep_index_in_memory(path)
    guard code == 0 else { throw Failure(code: code) }
  }
}
