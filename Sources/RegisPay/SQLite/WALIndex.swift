import CWALIndex

/// Keeps the index of a database's write-ahead log in memory. Only for a database that this process alone opens. SQLite maps an
/// index file, and a page of it that the disk can't read would end the process.
enum WALIndex {
  struct Failure: Error, CustomStringConvertible {
    /// SQLite's error code.
    var code: Int32

    var description: String { "the index of its write-ahead log can't be kept in memory: SQLite error \(code)" }
  }

  /// Call it before the first connection is opened. An index file that an earlier version has left is not used.
  static func keepInMemory(of path: String) throws(Failure) {
    let code = cwal_keep_index_in_memory(path)
    guard code == 0 else { throw Failure(code: code) }
  }
}
