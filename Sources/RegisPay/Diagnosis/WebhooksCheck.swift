import Foundation
import GRDB
import LogStore

/// Whether the registered webhooks can be read, and whether they are there if the log says that some are.
struct WebhooksCheck: Check {
  let name = CheckName.webhooks
  let directory: String
  /// `--new-webhooks`.
  let acceptsLoss: Bool

  private static let byteLimit = 64 << 20

  func run() -> [Finding] {
    let place = DataPlace(directory)
    let path = WebhookJournal.path(in: place.path + "/webhooks")
    let count: Int
    do throws(DatabaseImage.Failure) {
      count = try DatabaseImage.read(path, byteLimit: Self.byteLimit, Self.endpointCount) ?? 0
    } catch {
      return [
        error.finding(
          name, path,
          advice:
            "Check its disk and permissions, or restore it from a backup: no server starts with it, and it holds"
            + " the endpoints and their secrets, which can't be rebuilt.")
      ]
    }
    if count == 0, !acceptsLoss, DirectoryLog.hasMark(Webhooks.checkpointName, in: place) {
      return [
        .problem(
          name, "\(path): \(LogMark.reason(noun: "webhook endpoint", path: path))",
          advice: "Restore it from a backup, or start once with --new-webhooks and register the webhooks again: until"
            + " then no server starts.")
      ]
    }
    return [
      .ok(
        name,
        count == 0 ? "no webhook is registered" : "\(count) webhook endpoint\(count == 1 ? " is" : "s are") registered")
    ]
  }

  /// As ``WebhookJournal`` opens it.
  private static func endpointCount(_ database: Database) throws -> Int {
    let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
    if version == 0, try !database.tableExists("endpoint") { return 0 }
    guard version == WebhookTable.version else {
      throw DatabaseImage.Failure.unusable(
        "it has version \(version), and this program supports \(WebhookTable.version)")
    }
    return try WebhookTable.endpoints(database).count
  }
}

/// What the payments log of a data directory says, read without a lock.
enum DirectoryLog {
  /// Whether a ``LogMark`` is set; false if the log can't be read, which is a finding of ``StoreCheck``.
  static func hasMark(_ name: String, in place: DataPlace) -> Bool {
    (try? LogInspection.look(at: place.path + "/payments"))?.hasCursor(name) ?? false
  }
}
