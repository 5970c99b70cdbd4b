import Foundation
import LogStore

/// Finds out whether the payments log was lost. A server that begins an empty log beside files of a log with payments would know
/// none of them: a client that repeats a request with its idempotency key would pay twice.
///
/// Files derived from the payments log tell, and a file that is kept for this alone, since the derived ones may be lost together with
/// the log. The simulator's log does not count, because other programs may use the simulator.
enum LostLog {
  /// Call it if the payments log is missing or empty. Blocks for some reads; creates nothing.
  static func check(_ directory: String) throws(ServerError) {
    guard
      let known = best([try projectionCheckpoint(directory), try webhooksCheckpoint(directory), mark(in: directory)])
    else { return }
    let others = ["projection", "simulator", "webhooks", KnownLog.fileName].filter {
      FileManager.default.fileExists(atPath: "\(directory)/\($0)")
    }
    throw .lostLog(directory: directory, witness: known.path, events: known.checkpoint, others: others)
  }

  /// A file that tells of a log with events.
  typealias Witness = (path: String, checkpoint: UInt64)

  /// The one that tells of most events; nil if none tells of any.
  static func best(_ witnesses: [Witness?]) -> Witness? {
    witnesses.compactMap { $0 }.filter { $0.checkpoint > 0 }.max { $0.checkpoint < $1.checkpoint }
  }

  private static func projectionCheckpoint(
    _ directory: String
  ) throws(ServerError) -> (path: String, checkpoint: UInt64)? {
    do throws(ProjectionError) {
      return try PaymentProjection.checkpoint(in: directory + "/projection")
    } catch {
      throw .projection(error)
    }
  }

  private static func webhooksCheckpoint(_ directory: String) throws(ServerError) -> (path: String, checkpoint: UInt64)?
  {
    do throws(WebhookStoreError) {
      return try WebhookJournal.checkpoint(in: directory + "/webhooks")
    } catch {
      throw .webhooks(error)
    }
  }

  /// Whether a log's files exist. Opening the log reports files that can't be read.
  static func hasLog(_ directory: String) -> Bool {
    guard FileManager.default.fileExists(atPath: directory) else { return false }
    return (try? FileManager.default.contentsOfDirectory(atPath: directory).isEmpty) != true
  }

  static func mark(in directory: String) -> Witness? {
    KnownLog(in: directory).map { (KnownLog.path(in: directory), $0.events) }
  }
}
