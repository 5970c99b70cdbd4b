import Foundation
import GRDB

/// Whether the API keys can be read, and whether one protects an address that other machines can reach.
struct KeysCheck: Check {
  let name = CheckName.keys
  let directory: String
  let isLoopback: Bool
  let isInsecure: Bool
  let host: String

  func run() -> [Finding] {
    let place = DataPlace(directory)
    let path = KeyStore.path(in: place.path)
    let count: KeyFile.Count
    do throws(DatabaseImage.Failure) {
      count = try KeyFile.count(path)
    } catch {
      return [
        error.finding(
          name, path,
          advice:
            "Check its disk and permissions, restore it from a backup, or move it away and create new keys with regispay"
            + " keys create: no server starts with it.")
      ]
    }
    if count.all == 0, !isInsecure, DirectoryLog.hasMark(KeyWatch.checkpointName, in: place) {
      return [
        .problem(
          name, "\(path): \(LogMark.reason(noun: "key", path: path))",
          advice:
            "Restore it from a backup, or create new keys (regispay keys create --dir \(place.path)): once keys were"
            + " created, no server starts without one.")
      ]
    }
    let shown = count.all == 0 ? "there is no API key" : "\(count.valid) of \(count.all) API keys are valid"
    guard count.valid == 0, !isLoopback else { return [.ok(name, shown)] }
    let create = "Create one: regispay keys create --dir \(place.path)"
    if isInsecure {
      return [
        .warning(
          name, "\(shown), other machines can reach \(host), and --insecure lets everybody in",
          advice: create + ", and leave out --insecure.")
      ]
    }
    return [
      .problem(
        name, "\(shown), and other machines can reach \(host): the server does not start", advice: create + ".")
    ]
  }
}

/// The number of keys in a file, read without a lock.
enum KeyFile {
  struct Count: Sendable, Hashable {
    var all = 0
    var valid = 0
  }

  /// Some 100,000 keys.
  private static let byteLimit = 32 << 20

  /// - Returns: zeros if there is no file.
  static func count(_ path: String) throws(DatabaseImage.Failure) -> Count {
    let now = Int64(Date().timeIntervalSince1970)
    return try DatabaseImage.read(path, byteLimit: byteLimit) { database in
      let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
      // As ``KeyStore`` opens it.
      if version == 0, try !database.tableExists("key") { return Count() }
      guard version == KeyStore.version else {
        throw DatabaseImage.Failure.unusable(
          "it has version \(version), and this program supports \(KeyStore.version)")
      }
      let row = try Row.fetchOne(
        database,
        sql: "SELECT count(*), count(*) FILTER (WHERE revoked IS NULL AND (expiry IS NULL OR ? < expiry)) FROM key",
        arguments: [now])
      return Count(all: row?[0] ?? 0, valid: row?[1] ?? 0)
    } ?? Count()
  }
}
