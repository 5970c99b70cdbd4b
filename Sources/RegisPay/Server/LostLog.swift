import Foundation

/// Finds out whether the payments' log was lost. A server that begins an empty one beside files that were made from a log with
/// payments would know none of them: a client that repeats a request under its idempotency key would pay twice.
///
/// Only what was made from the payments' log itself counts. The simulator's log does not: others may use the simulator, too.
enum LostLog {
  /// To be asked where the payments' log is missing or empty. Blocks for some reads; makes nothing.
  static func check(_ directory: String) throws(ServerError) {
    let projection = PaymentProjection.checkpoint(in: directory + "/projection")
    let webhooks = WebhookJournal.checkpoint(in: directory + "/webhooks")
    guard let known = [projection, webhooks].compactMap({ $0 }).max(by: { $0.checkpoint < $1.checkpoint }),
      known.checkpoint > 0
    else { return }
    let others = ["projection", "simulator", "webhooks"].filter {
      FileManager.default.fileExists(atPath: "\(directory)/\($0)")
    }
    throw .lostLog(directory: directory, witness: known.path, place: known.checkpoint, others: others)
  }

  /// Whether there are files of a log. What can't be read is left to the log, which says so when it is opened.
  static func hasLog(_ directory: String) -> Bool {
    guard FileManager.default.fileExists(atPath: directory) else { return false }
    return (try? FileManager.default.contentsOfDirectory(atPath: directory).isEmpty) != true
  }
}
