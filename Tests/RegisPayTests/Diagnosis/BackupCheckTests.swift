import Foundation
import LogStore
import Testing

@testable import RegisPay

@Suite("Diagnosis: backups")
struct BackupCheckTests {
  /// A data directory with a log of several segments, a key and an endpoint, and a backup of it.
  private func withBackup(_ work: (_ data: String, _ backup: String) async throws -> Void) async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data"
      try await makeData(data)
      _ = try DataBackup(of: data, to: folder + "/backup", keep: .seconds(3_600)).run()
      try await work(data, folder + "/backup")
    }
  }

  private func makeData(_ data: String) async throws {
    try FileManager.default.createDirectory(
      atPath: data, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    var options = LogStore.Options()
    options.segmentBytes = 1 << 20
    for log in ["payments", "simulator"] {
      let store = try LogStore.open("\(data)/\(log)", options: options)
      let payload = [UInt8](repeating: 0x5A, count: 60_000)
      for _ in 0..<40 {
        _ = try await store.append(Append([NewEvent(stream: "a", type: "Happened", payload: payload)]))
      }
      try await store.close()
    }
    _ = try KeyStore.open(data).create(name: "a", scopes: [.read], lifetimeSeconds: nil)
    _ = try WebhookJournal.open(data + "/webhooks", health: Health(stores: []))
  }

  private func run(_ data: String, _ backup: String) -> [Finding] {
    BackupCheck(backup: backup, directory: data, ageLimit: .seconds(900)).run()
  }

  private func segments(_ backup: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: backup + "/payments").filter { $0.hasSuffix(".segment") }
      .sorted()
      .map { "\(backup)/payments/\($0)" }
  }

  @Test("a backup is complete, young and on another disk, or it is said what is wrong")
  func backups() async throws {
    try await withBackup { data, target in
      func run(_ seconds: Int = 900) -> [Finding] {
        BackupCheck(backup: target, directory: data, ageLimit: .seconds(seconds)).run()
      }
      #expect(BackupCheck(backup: nil, directory: data, ageLimit: .zero).run().map(\.result) == [.notChecked])
      #expect(self.run(data, data + "/none").map(\.result) == [.problem], "there is none")
      #expect(run().map(\.result) == [.ok, .warning] && run()[1].found.contains("on the same file system"), "\(run())")
      let file = target + "/backup.json"
      let text = try String(contentsOfFile: file, encoding: .utf8)
      let time = try BackupSet(in: target).time
      func set(_ seconds: TimeInterval) throws {
        let other = time.addingTimeInterval(seconds).formatted(.iso8601)
        try text.replacing(time.formatted(.iso8601), with: other).write(toFile: file, atomically: true, encoding: .utf8)
      }
      try set(-960)
      #expect(
        run()[0].result == .problem && run()[0].found.hasSuffix("16 minutes ago, and --backup-max-age is 15 minutes"))
      #expect(run(1_000)[0].result == .ok)
      try set(600)
      #expect(run()[0].result == .warning)
      try set(0)
      try FileManager.default.removeItem(atPath: target + "/payments")
      #expect(run().contains { $0.result == .problem && $0.found.contains("payments") })
      try Data("{".utf8).write(to: URL(fileURLWithPath: file))
      #expect(run().map(\.result) == [.problem])
    }
  }

  @Test("what can't be restored is a problem and never also ok, though it is young: logs, keys and webhooks")
  func unusable() async throws {
    try await withBackup { data, backup in
      #expect(run(data, backup).map(\.result) == [.ok, .warning], "\(run(data, backup))")
      #expect(try segments(backup).count > 2)
      func write(_ bytes: [UInt8], _ path: String) throws { try Data(bytes).write(to: URL(fileURLWithPath: path)) }
      let damages: [(name: String, found: String, make: (String) throws -> Void)] = [
        ("segment missing", "the file is missing", { try FileManager.default.removeItem(atPath: try segments($0)[1]) }),
        ("segments empty", "the file has 0 bytes", { copy in for path in try segments(copy) { try write([], path) } }),
        (
          "segment of zeros", "damaged",
          { copy in
            let path = try segments(copy)[1]
            try write([UInt8](repeating: 0, count: try Data(contentsOf: URL(fileURLWithPath: path)).count), path)
          }
        ),
        (
          "a pipe for a segment", "payments",
          { copy in
            let path = try segments(copy)[1]
            try FileManager.default.removeItem(atPath: path)
            #expect(mkfifo(path, 0o600) == 0)
          }
        ),
        (
          "no manifest", "no finished backup", { try FileManager.default.removeItem(atPath: $0 + "/payments/manifest") }
        ),
        ("garbage as manifest", "manifest", { try write(Array("x".utf8), $0 + "/payments/manifest") }),
        ("simulator missing", "simulator", { try FileManager.default.removeItem(atPath: $0 + "/simulator") }),
        ("keys empty", "keys.sqlite is damaged", { try write([], $0 + "/files-1/keys.sqlite") }),
        ("keys missing", "keys.sqlite", { try FileManager.default.removeItem(atPath: $0 + "/files-1/keys.sqlite") }),
        (
          "webhooks garbage", "webhooks.sqlite is damaged",
          { try write([UInt8](repeating: 7, count: 9_000), $0 + "/files-1/webhooks.sqlite") }
        ),
        (
          "another end", "ends with offset 40, and backup.json says 41",
          { copy in
            let text = try String(contentsOfFile: copy + "/backup.json", encoding: .utf8)
            try write(Array(text.replacing("\"events\":40", with: "\"events\":41").utf8), copy + "/backup.json")
          }
        ),
      ]
      for (name, found, make) in damages {
        let copy = backup + "-copy"
        try FileManager.default.copyItem(atPath: backup, toPath: copy)
        try make(copy)
        let findings = run(data, copy)
        #expect(
          findings.contains {
            $0.result == .problem && $0.found.contains("can't be restored") && $0.found.contains(found)
          },
          "\(name): \(findings)")
        #expect(!findings.contains { $0.result == .ok }, "\(name): \(findings)")
        let target = copy + "-restored"
        #expect(throws: DataBackupError.self, "\(name)") { try DataRestoration(of: copy, to: target).run() }
        for path in [copy, target] where access(path, F_OK) == 0 { try FileManager.default.removeItem(atPath: path) }
      }
    }
  }

  @Test("the backup of another log is a problem, also when the log itself is lost")
  func otherLog() async throws {
    try await withBackup { data, backup in
      let other = data + "-other"
      try await makeData(other)
      #expect(run(other, backup).contains { $0.result == .problem && $0.found.contains("is of another log") })
      let id = try LogInspection.look(at: other + "/payments").storeID
      try KnownLog(storeID: id, events: 40).write(in: other)
      try FileManager.default.removeItem(atPath: other + "/payments")
      #expect(run(other, backup).contains { $0.result == .problem && $0.found.contains("is of another log") })
      // Before the first start there is nothing to compare with.
      #expect(run(data + "-new", backup).map(\.result).first == .ok)
    }
  }

  @Test("an earlier backup whose set can't be read is a problem beside the latest one, which is ok")
  func earlier() async throws {
    try await withBackup { data, backup in
      _ = try DataBackup(of: data, to: backup).run()
      try Data("{".utf8).write(to: URL(fileURLWithPath: backup + "/files-1/set.json"))
      let findings = run(data, backup)
      #expect(findings.map(\.result) == [.ok, .problem, .warning], "\(findings)")
      #expect(
        findings[1].found.contains("files-1/set.json is damaged") && findings[1].found.hasSuffix("remove files-1"))
    }
  }
}
