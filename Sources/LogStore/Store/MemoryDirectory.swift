/// The directory of a store in memory, for the tests of a program that uses LogStore: no files to clean up, and no disk to
/// wait for. It lives as long as it is referenced. Safe to use from any thread.
///
/// A store in it behaves as one on a disk, with the same code, conditions, cursors, subscriptions and errors, also when it is
/// closed and opened again. Only durability means nothing, and other processes can't see it.
///
/// ```swift
/// let memory = MemoryDirectory()
/// let store = try LogStore.open(in: memory)
/// ```
public final class MemoryDirectory: Sendable {
  let disk = MemoryDisk()

  /// An empty directory.
  public init() {}
}

extension LogStore {
  /// Opens the store in a directory in memory, or creates it there. Memory is used for what is appended, about twice as much
  /// for small stores, since zeros are written ahead as on a disk; each segment and index file takes a file descriptor.
  ///
  /// - Parameter directory: holds the store from then on.
  /// - Parameter options: as for ``open(_:options:)``; ``StoreOptions/access`` means nothing.
  /// - Throws: what ``open(_:options:)`` throws.
  public static func open(in directory: MemoryDirectory, options: Options = Options()) throws(LogStoreError) -> LogStore
  {
    try open("/store", options: options, disk: directory.disk)
  }
}
