import GRDB
import NIOPosix

extension DatabasePool {
  /// Merges the write-ahead log into the file and closes it, so that a copy of the file alone is complete.
  ///
  /// SQLite merges on its own only when the last connection to close may write. A pool closes its readers last, and they may
  /// not write.
  ///
  /// A pool waits for what is being read, which may itself wait for one of the threads that tasks run on. So no task waits here: on a
  /// machine with one core it would hold the only such thread, for ever.
  ///
  /// - Throws: the error of the merge or of the close. No data is lost: the write-ahead log beside the file has what the file
  ///   lacks.
  func closeWhole() async throws {
    try await NIOThreadPool.singleton.runIfActive {
      // Behind all reads: the merge would fail beside one.
      let merged = Result { try self.barrierWriteWithoutTransaction { _ = try $0.checkpoint(.truncate) } }
      try self.close()
      try merged.get()
    }
  }
}
