import Foundation
import LogStore
import Logging

/// Finds out whether the payments log was lost. A server that begins an empty log beside files of a log with payments would know
/// none of them: a client that repeats a request with its idempotency key would pay twice.
///
/// Files derived from the payments log tell, and a file that is kept for this alone, since the derived ones may be lost together with
/// the log. The simulator's log does not count, because other programs may use the simulator.
enum LostLog {
  /// In the data directory: this directory's payments log has events.
  static let markName = "payments.known"

  /// Call it if the payments log is missing or empty. Blocks for some reads; creates nothing.
  static func check(_ directory: String) throws(ServerError) {
    let witnesses = [try projectionCheckpoint(directory), try webhooksCheckpoint(directory), mark(in: directory)]
    guard let known = witnesses.compactMap({ $0 }).max(by: { $0.checkpoint < $1.checkpoint }), known.checkpoint > 0
    else { return }
    let others = ["projection", "simulator", "webhooks", markName].filter {
      FileManager.default.fileExists(atPath: "\(directory)/\($0)")
    }
    throw .lostLog(directory: directory, witness: known.path, events: known.checkpoint, others: others)
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

  // MARK: - The mark

  /// Waits for the log's first event and writes the mark, until the task is cancelled. A mark of an earlier start is written again
  /// with the number of events.
  static func keepMark(in directory: String, _ reader: LogReader, logger: Logger) async {
    // A closed log has no first event any more; one that was there before counts.
    _ = try? await reader.waitForEvents(at: 0)
    var isFailing = false
    while reader.endOffset > 0 {
      do throws(SmallFile.Failure) {
        let json: JSONValue = ["events": .integer(reader.endOffset), "storeID": .string("\(reader.storeID)")]
        try await RequestThreads.run(.long) { () throws(SmallFile.Failure) in
          try SmallFile.write(json.bytes, to: directory + "/" + markName)
        }
        return
      } catch {
        if !isFailing { logger.warning("a loss of the log may go unnoticed", metadata: ["reason": "\(error)"]) }
        isFailing = true
      }
      guard !Task.isCancelled else { return }
      // Cancelled, the next try is the last.
      try? await Task.sleep(for: .seconds(5))
    }
  }

  /// The mark is there, whatever is in it: a power cut may have torn it. Its number of events is at least what it says.
  private static func mark(in directory: String) -> (path: String, checkpoint: UInt64)? {
    let path = directory + "/" + markName
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    // Unreadable, it still proves that there were events.
    let json = ((try? SmallFile.read(path)) ?? nil).flatMap { try? JSONReader.read($0) }
    guard case .number(let digits)? = json?["events"], let events = UInt64(digits) else { return (path, 1) }
    return (path, max(events, 1))
  }
}
