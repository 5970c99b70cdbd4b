import LogStore
import Logging

extension LogStore {
  /// Opens a log of a server, in the directory of this name. Blocks while its tail is read.
  ///
  /// - Parameters:
  ///   - directory: the data directory.
  ///   - gatherMilliseconds: under load the processor is the bottleneck, not the disk: see docs/PERFORMANCE.md.
  static func open(
    _ name: String, in directory: String, segmentBytes: Int, allowsGroup: Bool = false, gatherMilliseconds: UInt32 = 1,
    _ logger: Logger
  ) throws(LogStoreError) -> LogStore {
    var options = LogStore.Options()
    options.segmentBytes = segmentBytes
    // Damage in a finished segment must not keep the server from serving the rest: see docs/DURABILITY.md.
    options.servesDamaged = true
    options.access = allowsGroup ? .group : .owner
    options.gatherMilliseconds = gatherMilliseconds
    let store = try LogStore.open("\(directory)/\(name)", options: options)
    logger.log(
      level: store.recovery.wasClosedCleanly ? .info : .warning, "log opened",
      metadata: ["log": "\(name)", "recovery": "\(store.recovery)"])
    return store
  }
}
