import Foundation

/// Finds out whether the payments log was lost. A server that begins an empty log beside files derived from a log with payments would
/// know none of them: a client that repeats a request with its idempotency key would pay twice.
///
/// Only files derived from the payments log count. The simulator's log does not, because other programs may use the simulator.
enum LostLog {
  /// Call it if the payments log is missing or empty. Blocks for some reads; creates nothing.
  static func check(_ directory: String) throws(ServerError) {
    let derived: [(path: String, checkpoint: UInt64)?] = [
      PaymentProjection.checkpoint(in: directory + "/projection"),
      WebhookJournal.checkpoint(in: directory + "/webhooks"),
    ]
    guard let known = derived.compactMap({ $0 }).max(by: { $0.checkpoint < $1.checkpoint }), known.checkpoint > 0
    else { return }
    let others = ["projection", "simulator", "webhooks"].filter {
      FileManager.default.fileExists(atPath: "\(directory)/\($0)")
    }
    throw .lostLog(directory: directory, derivedFile: known.path, events: known.checkpoint, others: others)
  }

  /// Whether a log's files exist. Opening the log reports files that can't be read.
  static func hasLog(_ directory: String) -> Bool {
    guard FileManager.default.fileExists(atPath: directory) else { return false }
    return (try? FileManager.default.contentsOfDirectory(atPath: directory).isEmpty) != true
  }
}
