import Foundation
import Testing

/// `regispay backup` and `regispay restore`, with servers that run, are killed and lose their data directory.
@Suite("RegisPay, backed up and restored")
struct RegisPayBackupTests {
  private static let order = [("Content-Type", "application/json")]

  /// - Returns: what was printed, and what was said on standard error.
  @discardableResult private func command(
    _ folder: String, _ arguments: String..., code: Int32 = 0
  ) async throws -> (output: String, errors: String) {
    let process = try start(folder, arguments)
    var lines: [String] = []
    while let line = try await process.nextLine() { lines.append(line) }
    #expect(try await process.waitForExit() == .init(code: code, isSignal: false), "\(process.errorText)")
    return (lines.joined(separator: "\n"), process.errorText)
  }

  /// Starts `regispay`; the words after `--dir`, `--to`, `--from` and `--backup` name something in the folder.
  private func start(_ folder: String, _ arguments: [String]) throws -> RegisPayProcess {
    let words = zip(arguments, [""] + arguments).map { word, before in
      ["--dir", "--to", "--from", "--backup"].contains(before) ? "\(folder)/\(word)" : word
    }
    return try RegisPayProcess(words, folder: folder)
  }

  private func kill(_ process: RegisPayProcess) async throws {
    process.signal(SIGKILL)
    _ = try await process.waitForExit()
  }

  private func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

  private func mode(_ path: String) throws -> Int {
    try #require(try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
  }

  @Test("the restored server has the payments, keys and webhooks of the backup, and the next backup copies what is new")
  func everything() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--allow-private-webhooks"])
      let hook = try await server.post(
        "/api/v1/webhooks", #"{"url":"http://127.0.0.1:59999/hook","events":["payment.completed"]}"#,
        headers: Self.order)
      #expect(hook.status == 201)
      let first = try await server.createPayment("1")
      try await server.wait(for: first, status: "Completed", within: .seconds(10))
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      let second = try await server.createPayment("2")
      try await server.wait(for: second, status: "Completed", within: .seconds(10))
      let (key, revoked) = (
        try await command(
          folder, "keys", "create", "--dir", "data", "--name", "a", "--scope", "read", "--scope", "operate"
        ).output,
        try await command(folder, "keys", "create", "--dir", "data", "--name", "b", "--scope", "read").output
      )
      let printed = try await command(folder, "backup", "--dir", "data", "--to", "backup").output
      #expect(printed.contains("payments events 0..<") && printed.contains("simulator events 0..<"), "\(printed)")
      #expect(printed.contains("webhooks.sqlite, keys.sqlite"), "\(printed)")
      for name in [
        "", "backup.json", "files-2", "files-2/keys.sqlite", "files-2/webhooks.sqlite", "payments", "payments/manifest",
      ] {
        #expect(try mode("\(folder)/backup/\(name)") & 0o077 == 0, "\(name) is for nobody else")
      }
      #expect(!exists(folder + "/backup/files-1"))
      let id = try #require(revoked.dropFirst(3).split(separator: "_").first)
      try await command(folder, "keys", "revoke", "--dir", "data", String(id))
      try await server.killHard()
      try FileManager.default.moveItem(atPath: folder + "/data", toPath: folder + "/old")
      let restored = try await command(folder, "restore", "--from", "backup", "--dir", "data").output
      #expect(restored.contains("restored payments.known, webhooks/webhooks.sqlite, keys.sqlite"), "\(restored)")
      let again = try await RunningServer.start(directory: folder)
      for id in [first, second] {
        let path = "/api/v1/payments/\(id)"
        let payment = try await again.get(path, headers: [("Authorization", "Bearer \(key)")])
        #expect(try payment.object()["status"] as? String == "Completed")
        // Revoked after the backup.
        #expect(try await again.get(path, headers: [("Authorization", "Bearer \(revoked)")]).status == 200)
        #expect(try await again.get(path).status == 401)
      }
      let hooks = try await again.get("/api/v1/webhooks", headers: [("Authorization", "Bearer \(key)")])
      #expect(String(decoding: hooks.body, as: UTF8.self).contains("http://127.0.0.1:59999/hook"))
      #expect(try await again.stopGracefully() == .init(code: 0, isSignal: false))

      // Into the old directory: its keys are newer.
      for name in ["payments", "simulator"] { try FileManager.default.removeItem(atPath: "\(folder)/old/\(name)") }
      let into = try await command(folder, "restore", "--from", "backup", "--dir", "old").output
      #expect(into.contains("old had: payments.known, webhooks/webhooks.sqlite, keys.sqlite"), "\(into)")
      let list = try await command(folder, "keys", "list", "--dir", "old").output
      #expect(list.contains("revoked"), "\(list)")
    }
  }

  @Test(
    "restore drill: continuous backups under load, kill -9, the directory deleted: what is lost is younger than the interval"
  )
  func drill() async throws {
    try await withTemporaryFolder { folder in
      let others = folder + "/psp"
      try FileManager.default.createDirectory(atPath: others, withIntermediateDirectories: true)
      let psp = try await RunningServer.start(directory: others)
      let arguments = ["--psp-url", psp.url + "/psp", "--notifications-url", psp.url + "/notifications"]
      let server = try await RunningServer.start(directory: folder, arguments: arguments)
      let backup = try start(folder, ["backup", "--dir", "data", "--to", "backup", "--every", "1s"])
      var acknowledged: [(id: String, at: ContinuousClock.Instant)] = []
      let start = ContinuousClock.now
      while ContinuousClock.now < start + .seconds(6) {
        let ids = try await withThrowingTaskGroup(of: String.self) { group in
          for _ in 0..<20 { group.addTask { try await server.createPayment("1") } }
          return try await group.reduce(into: []) { $0.append($1) }
        }
        acknowledged += ids.map { ($0, ContinuousClock.now) }
      }
      try await server.killHard()
      let killed = ContinuousClock.now
      try await kill(backup)
      try FileManager.default.removeItem(atPath: folder + "/data")
      try await command(folder, "restore", "--from", "backup", "--dir", "data")
      let restored = try await RunningServer.start(directory: folder, arguments: arguments)
      var survived: Set<String> = []
      for (id, at) in acknowledged {
        if try await restored.get("/api/v1/payments/\(id)").status == 200 {
          survived.insert(id)
        } else {
          // The interval, and what a backup takes on a busy machine.
          #expect(killed - at < .seconds(3), "payment \(id) is older than the interval")
        }
      }
      #expect(survived.count > acknowledged.count / 3, "\(survived.count) of \(acknowledged.count)")
      for id in survived { try await restored.wait(for: id, status: "Completed", within: .seconds(20)) }
      let ledger = try await psp.get("/psp/api/ledger").object()
      let charges = (ledger["charges"] as? [[String: Any]] ?? []).filter { $0["status"] as? String == "settled" }
      let counts = Dictionary(grouping: charges) { $0["paymentId"] as? String ?? "" }.mapValues(\.count)
      for id in survived { #expect(counts[id] == 1, "payment \(id) is charged once") }
    }
  }

  @Test("a backup that is killed at any moment leaves one that can be restored, and that the next run completes")
  func killed() async throws {
    var random = SeededGenerator("backup kills")
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--allow-private-webhooks"])
      _ = try await server.post("/api/v1/webhooks", #"{"url":"http://127.0.0.1:59999/"}"#, headers: Self.order)
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      for round in 1...8 {
        for _ in 0..<20 { _ = try await server.createPayment("1") }
        let process = try start(folder, ["backup", "--dir", "data", "--to", "backup"])
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...250, using: &random)))
        try await kill(process)
        try await command(folder, "restore", "--from", "backup", "--dir", "restored")
        let restored = try start(folder, ["serve", "--dir", "restored", "--port", "0"])
        let line = try await restored.nextLine()
        #expect(line?.contains("ready") == true, "round \(round): \(restored.errorText)")
        try await kill(restored)
        try FileManager.default.removeItem(atPath: folder + "/restored")
      }
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
    }
  }

  @Test("a restoration that was killed is no data directory, and goes on when it is run again")
  func restorationKilled() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(10))
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      try await server.killHard()
      try await command(folder, "restore", "--from", "backup", "--dir", "next")
      // As if it had been killed before the last thing that it does.
      try FileManager.default.removeItem(atPath: folder + "/next/payments")
      let refused = try await command(folder, "serve", "--dir", "next", "--port", "0", code: 1)
      #expect(refused.errors.contains("the payments log, is missing or empty"), "\(refused.errors)")
      #expect(!exists(folder + "/next/payments"))
      try await command(folder, "restore", "--from", "backup", "--dir", "next")
      let shown = try await command(folder, "restore", "--from", "backup", "--dir", "next", code: 1)
      #expect(shown.errors.contains("next/payments exists: "), "\(shown.errors)")
    }
  }

  @Test("a restoration that was not finished keeps servers away, and is finished from the same backup only")
  func restorationUnfinished() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      try await command(folder, "keys", "create", "--dir", "data", "--name", "a", "--scope", "read")
      try await command(folder, "backup", "--dir", "data", "--to", "first")
      // Times of backups have seconds.
      try await Task.sleep(for: .seconds(1.1))
      try await command(folder, "backup", "--dir", "data", "--to", "second")
      try await server.killHard()
      try await command(folder, "restore", "--from", "first", "--dir", "next")
      // As if it had been killed before its last write. There is no payment that could tell.
      let json = try String(contentsOfFile: folder + "/first/backup.json", encoding: .utf8)
        .replacing("\"folder\":", with: "\"number\":")
      try json.write(toFile: folder + "/next/restoration", atomically: true, encoding: .utf8)
      try FileManager.default.removeItem(atPath: folder + "/next/keys.sqlite")
      let refused = try await command(folder, "serve", "--dir", "next", "--port", "0", code: 1)
      #expect(refused.errors.contains("next was not finished: run regispay restore again"), "\(refused.errors)")
      let other = try await command(folder, "restore", "--from", "second", "--dir", "next", code: 1)
      #expect(other.errors.contains("next holds an unfinished restoration of the backup of "), "\(other.errors)")
      // Somebody has put another log there meanwhile: an older state of it, and one of another store.
      try FileManager.default.moveItem(atPath: folder + "/next/payments", toPath: folder + "/payments")
      for events in [0, 3] {
        let lines = String(repeating: "a\tB\tc\n", count: events)
        let append = try RegisPayProcess(
          program: "sh",
          [
            "-c",
            "printf '\(lines)' | \(RegisPayProcess.buildFolder.path)/logstore append --dir \(folder)/next/payments",
          ], folder: folder)
        #expect(try await append.waitForExit().code == 0, "\(append.errorText)")
        let foreign = try await command(folder, "restore", "--from", "first", "--dir", "next", code: 1)
        #expect(foreign.errors.contains("next/payments is not what an earlier run has restored"), "\(foreign.errors)")
        #expect(exists(folder + "/next/restoration"))
        try FileManager.default.removeItem(atPath: folder + "/next/payments")
      }
      try FileManager.default.moveItem(atPath: folder + "/payments", toPath: folder + "/next/payments")
      try await command(folder, "restore", "--from", "first", "--dir", "next")
      #expect(exists(folder + "/next/keys.sqlite") && !exists(folder + "/next/restoration"))
      let restored = try start(folder, ["serve", "--dir", "next", "--port", "0"])
      #expect(try await restored.nextLine()?.contains("ready") == true, "\(restored.errorText)")
      try await kill(restored)
    }
  }

  @Test(
    "a backup that fails leaves the set of the one before: a restored server has no payment that was added to the log since"
  )
  func setUnchanged() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let key = try await command(
        folder, "keys", "create", "--dir", "data", "--name", "a", "--scope", "read", "--scope", "write"
      ).output
      let headers = [("Authorization", "Bearer \(key)"), ("Content-Type", "application/json")]
      func pay() async throws -> String {
        let created = try await server.post(
          "/api/payment/create", #"{"amount":1,"currency":"GBP"}"#, headers: headers)
        return try #require(try created.object()["paymentId"] as? String)
      }
      try await eventually("the key is known", within: .seconds(10)) {
        try await server.get("/api/v1/payments", headers: headers).status == 200
      }
      let before = try await pay()
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      let after = try await pay()
      let data = try Data(contentsOf: URL(fileURLWithPath: folder + "/data/keys.sqlite"))
      try Data(repeating: 0xFF, count: data.count).write(to: URL(fileURLWithPath: folder + "/data/keys.sqlite"))
      try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
      try await server.killHard()
      try await command(folder, "restore", "--from", "backup", "--dir", "next")
      let process = try start(folder, ["serve", "--dir", "next", "--port", "0", "--segment-bytes", "1048576"])
      let line = try #require(try await process.nextLine())
      let next = RunningServer(process: process, url: String(try #require(line.split(separator: " ").last)))
      #expect(try await next.get("/api/v1/payments/\(before)", headers: headers).status == 200)
      #expect(try await next.get("/api/v1/payments/\(after)", headers: headers).status == 404)
      try await kill(process)
    }
  }

  @Test("a backup of the program before can be restored, and the next backup replaces its form")
  func oldForm() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      try await command(folder, "keys", "create", "--dir", "data", "--name", "a", "--scope", "read")
      _ = try await server.post("/api/v1/webhooks", #"{"url":"https://example.com/"}"#, headers: Self.order)
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      try await server.killHard()
      let set =
        try JSONSerialization.jsonObject(
          with: Data(contentsOf: URL(fileURLWithPath: folder + "/backup/backup.json"))) as? [String: Any]
      let old: [String: Any] = [
        "version": 1, "time": try #require(set?["time"]), "storeID": try #require(set?["storeID"]),
        "events": try #require(set?["events"]), "simulator": true, "files": ["webhooks.sqlite", "keys.sqlite"],
        "psp": "simulator",
      ]
      try JSONSerialization.data(withJSONObject: old).write(to: URL(fileURLWithPath: folder + "/backup/backup.json"))
      for name in ["keys.sqlite", "webhooks.sqlite"] {
        try FileManager.default.moveItem(
          atPath: "\(folder)/backup/files-1/\(name)", toPath: "\(folder)/backup/\(name)")
      }
      try FileManager.default.removeItem(atPath: folder + "/backup/files-1")
      let restored = try await command(folder, "restore", "--from", "backup", "--dir", "next").output
      #expect(restored.contains("restored simulator events"), "\(restored)")
      #expect(exists(folder + "/next/keys.sqlite") && exists(folder + "/next/webhooks/webhooks.sqlite"))
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      #expect(!exists(folder + "/backup/keys.sqlite") && exists(folder + "/backup/files-1/keys.sqlite"))
      try await command(folder, "restore", "--from", "backup", "--dir", "again")
    }
  }

  @Test("earlier backups are kept for a time, and each can be restored")
  func kept() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      var ids: [String] = []
      for _ in 1...3 {
        ids.append(try await server.createPayment("1"))
        try await command(folder, "backup", "--dir", "data", "--to", "backup", "--keep", "1h")
        // Times of backups have seconds.
        try await Task.sleep(for: .seconds(1.1))
      }
      try await server.killHard()
      let list = try await command(folder, "restore", "--from", "backup", "--list").output.split(separator: "\n")
      #expect(list.count == 3, "\(list)")
      for (number, line) in list.enumerated() {
        let time = String(try #require(line.split(separator: "\t").first))
        let restored = try await command(
          folder, "restore", "--from", "backup", "--dir", "next\(number)", "--at", time
        ).output
        #expect(restored.contains("from the backup of \(time)"), "\(restored)")
        let process = try start(
          folder, ["serve", "--dir", "next\(number)", "--port", "0", "--segment-bytes", "1048576"])
        let url = try #require(try await process.nextLine()?.split(separator: " ").last)
        let next = RunningServer(process: process, url: String(url))
        for (index, id) in ids.enumerated() {
          #expect(try await next.get("/api/v1/payments/\(id)").status == (index <= number ? 200 : 404))
        }
        try await kill(process)
      }
      let early = try await command(
        folder, "restore", "--from", "backup", "--dir", "early", "--at", "2020-01-01T00:00:00Z", code: 1)
      #expect(early.errors.contains("has no backup of 2020-01-01T00:00:00Z or before"), "\(early.errors)")
      // An earlier one that can't be read is said, and concerns no other.
      try Data("{".utf8).write(to: URL(fileURLWithPath: folder + "/backup/files-1/set.json"))
      let beside = try await command(folder, "backup", "--dir", "data", "--to", "backup", "--keep", "1h")
      #expect(beside.errors.contains("files-1/set.json is damaged"), "\(beside.errors)")
      let shown = try await command(folder, "restore", "--from", "backup", "--list", code: 1)
      #expect(shown.output.split(separator: "\n").count == 3 && shown.errors.contains("files-1/set.json is damaged"))
      try await command(folder, "restore", "--from", "backup", "--dir", "latest")
      // What is too old goes, not all of it at once: the clock may be wrong.
      for left in [2, 1] {
        try await Task.sleep(for: .seconds(1.1))
        try await command(folder, "backup", "--dir", "data", "--to", "backup", "--keep", "1s")
        let kept = try FileManager.default.contentsOfDirectory(atPath: folder + "/backup").filter {
          $0.hasPrefix("files-") && $0 != "files-1"
        }
        #expect(kept.count == left, "\(kept)")
      }
      try FileManager.default.removeItem(atPath: folder + "/backup/files-1")
      try await Task.sleep(for: .seconds(1.1))
      // As long as the run before.
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      let last = try await command(folder, "restore", "--from", "backup", "--list").output
      #expect(last.split(separator: "\n").count == 1, "\(last)")
      #expect(
        try FileManager.default.contentsOfDirectory(atPath: folder + "/backup").filter { $0.hasPrefix("files-") } == [
          "files-7"
        ])
    }
  }

  @Test("an earlier backup whose set is damaged in any way keeps nobody from listing and restoring the others")
  func damagedSet() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      for _ in 1...3 {
        _ = try await server.createPayment("1")
        try await command(folder, "backup", "--dir", "data", "--to", "backup", "--keep", "1h")
        // Times of backups have seconds.
        try await Task.sleep(for: .seconds(1.1))
      }
      try await server.killHard()
      let list = try await command(folder, "restore", "--from", "backup", "--list").output.split(separator: "\n")
      let times = list.compactMap { $0.split(separator: "\t").first.map(String.init) }
      try #require(times.count == 3)
      let set = folder + "/backup/files-2/set.json"
      let sound = try Data(contentsOf: URL(fileURLWithPath: set))
      let damages: [(name: String, make: () throws -> Void)] = [
        ("cut", { try sound.prefix(100).write(to: URL(fileURLWithPath: set)) }),
        ("empty", { try Data().write(to: URL(fileURLWithPath: set)) }),
        ("missing", {}), ("pipe", { #expect(mkfifo(set, 0o600) == 0) }),
        ("directory", { try FileManager.default.createDirectory(atPath: set, withIntermediateDirectories: false) }),
        ("link", { try FileManager.default.createSymbolicLink(atPath: set, withDestinationPath: "/nowhere") }),
        (
          "other folder",
          {
            let text = String(decoding: sound, as: UTF8.self).replacing("\"folder\":2", with: "\"folder\":9")
            try Data(text.utf8).write(to: URL(fileURLWithPath: set))
          }
        ),
      ]
      for (name, make) in damages {
        try FileManager.default.removeItem(atPath: set)
        try make()
        let shown = try await command(folder, "restore", "--from", "backup", "--list", code: 1)
        #expect(shown.output.split(separator: "\n") == [list[0], list[2]], "\(name): \(shown.output)")
        let lines = shown.errors.split(separator: "\n")
        #expect(
          lines.count == 1 && lines[0].contains("files-2/set.json") && lines[0].hasSuffix("remove files-2"),
          "\(name): \(lines)")
        for (number, (asked, got)) in [(times[0], times[0]), (times[1], times[0]), (times[2], times[2])].enumerated() {
          let target = "\(name)-\(number)".replacing(" ", with: "-")
          let restored = try await command(folder, "restore", "--from", "backup", "--dir", target, "--at", asked)
          #expect(restored.output.contains("from the backup of \(got)"), "\(name): \(restored.output)")
          // The second backup can't have been meant for the last one's time.
          #expect(restored.errors.contains("files-2/set.json") == (got == times[0]), "\(name): \(restored.errors)")
        }
        let doctor = try await command(
          folder, "doctor", "--dir", "data", "--port", "0", "--segment-bytes", "1048576", "--backup", "backup", code: 1)
        #expect(doctor.output.contains("files-2/set.json"), "\(name): \(doctor.output)")
        if name == "missing" { try Data().write(to: URL(fileURLWithPath: set)) }
      }
      // The latest one's file is a copy of that in its folder.
      try FileManager.default.removeItem(atPath: folder + "/backup/files-2")
      try Data("{".utf8).write(to: URL(fileURLWithPath: folder + "/backup/backup.json"))
      let shown = try await command(folder, "restore", "--from", "backup", "--list", code: 1)
      #expect(
        shown.output.split(separator: "\n") == [list[0], list[2]] && shown.errors.contains("backup.json is damaged"))
      let latest = try await command(folder, "restore", "--from", "backup", "--dir", "latest", code: 1)
      #expect(latest.errors.contains("backup.json is damaged") && latest.errors.contains("--list"), "\(latest.errors)")
      try await command(folder, "restore", "--from", "backup", "--dir", "latest", "--at", times[2])
    }
  }

  @Test("a run that says nothing keeps as long as the one before, and damage in what is kept is reported")
  func keptOn() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      try await command(folder, "keys", "create", "--dir", "data", "--name", "a", "--scope", "read")
      try await command(folder, "backup", "--dir", "data", "--to", "backup", "--keep", "1h")
      for _ in 0..<2 { try await command(folder, "backup", "--dir", "data", "--to", "backup") }
      let list = try await command(folder, "restore", "--from", "backup", "--list").output
      #expect(list.split(separator: "\n").count == 3, "\(list)")
      var keys = try Data(contentsOf: URL(fileURLWithPath: folder + "/backup/files-1/keys.sqlite"))
      keys[keys.count / 2] ^= 1
      try keys.write(to: URL(fileURLWithPath: folder + "/backup/files-1/keys.sqlite"))
      try FileManager.default.removeItem(atPath: folder + "/backup/files-2/set.json")
      let next = try await command(folder, "backup", "--dir", "data", "--to", "backup")
      #expect(next.errors.contains("files-1/keys.sqlite is damaged"), "\(next.errors)")
      #expect(next.errors.contains("files-2/set.json is missing"), "\(next.errors)")
      // What can't be restored stays for a person to look at.
      #expect(exists(folder + "/backup/files-1") && exists(folder + "/backup/files-2"))
      try await server.killHard()
    }
  }

  @Test("after a killed run and a restoration the backup goes on: what the killed run had added is taken out")
  func killedAndRestored() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let first = try await server.createPayment("1")
      try await server.wait(for: first, status: "Completed", within: .seconds(20))
      try await command(folder, "backup", "--dir", "data", "--to", "backup", "--keep", "1h")
      let latest = try Data(contentsOf: URL(fileURLWithPath: folder + "/backup/backup.json"))
      let lost = try await server.createPayment("2")
      try await server.wait(for: lost, status: "Completed", within: .seconds(20))
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      try await server.killHard()
      // As if the second run had been killed just before its last write.
      try latest.write(to: URL(fileURLWithPath: folder + "/backup/backup.json"))
      try await command(folder, "restore", "--from", "backup", "--dir", "next")
      let process = try start(folder, ["serve", "--dir", "next", "--port", "0", "--segment-bytes", "1048576"])
      let line = try #require(try await process.nextLine())
      let next = RunningServer(process: process, url: String(try #require(line.split(separator: " ").last)))
      let later = try await next.createPayment("3")
      try await next.wait(for: later, status: "Completed", within: .seconds(20))
      for _ in 0..<2 { try await command(folder, "backup", "--dir", "next", "--to", "backup") }
      try await kill(process)
      let names = try FileManager.default.contentsOfDirectory(atPath: folder + "/backup")
      #expect(!names.contains { $0.contains("rewound") }, "\(names)")
      // Both sets can be restored, each with its own payments.
      try await command(folder, "restore", "--from", "backup", "--dir", "last")
      let restored = try start(folder, ["serve", "--dir", "last", "--port", "0", "--segment-bytes", "1048576"])
      let ready = try #require(try await restored.nextLine())
      let last = RunningServer(process: restored, url: String(try #require(ready.split(separator: " ").last)))
      for (id, status) in [(first, 200), (lost, 404), (later, 200)] {
        #expect(try await last.get("/api/v1/payments/\(id)").status == status)
      }
      try await kill(restored)
      // A log that does not go on from any set is refused, and changes nothing.
      let before = try await command(folder, "restore", "--from", "backup", "--list").output
      let foreign = try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
      #expect(foreign.errors.contains("another directory"), "\(foreign.errors)")
      #expect(try await command(folder, "restore", "--from", "backup", "--list").output == before)
      try await command(folder, "restore", "--from", "backup", "--dir", "again")
    }
  }

  @Test("what was lost or damaged never replaces a good copy, and a damaged copy is not restored")
  func losses() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--allow-private-webhooks"])
      _ = try await server.post("/api/v1/webhooks", #"{"url":"http://127.0.0.1:59999/"}"#, headers: Self.order)
      try await command(folder, "keys", "create", "--dir", "data", "--name", "a", "--scope", "read")
      try await eventually("the log says that there are keys", within: .seconds(10)) {
        try await server.get("/api/v1/payments").status == 401
      }
      try await Task.sleep(for: .seconds(1.5))
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      try await server.killHard()
      let set = try Data(contentsOf: URL(fileURLWithPath: folder + "/backup/backup.json"))
      for (path, text) in [
        ("keys.sqlite", "holds no key, and keys were made for this log"),
        ("webhooks/webhooks.sqlite", "holds no webhook endpoint, and webhook endpoints were made for this log"),
      ] {
        let good = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/data/\(path)"))
        try Data().write(to: URL(fileURLWithPath: "\(folder)/data/\(path)"))
        let refused = try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
        #expect(refused.errors.contains(text), "\(refused.errors)")
        try good.write(to: URL(fileURLWithPath: "\(folder)/data/\(path)"))
      }
      try FileManager.default.moveItem(atPath: folder + "/data/keys.sqlite", toPath: folder + "/keys")
      #expect(try await command(folder, "keys", "list", "--dir", "data").output.isEmpty)
      #expect(!exists(folder + "/data/keys.sqlite"), "an empty file would look as if there had been no keys")
      try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
      try FileManager.default.moveItem(atPath: folder + "/keys", toPath: folder + "/data/keys.sqlite")
      try FileManager.default.moveItem(atPath: folder + "/data/simulator/store", toPath: folder + "/store")
      let storeless = try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
      #expect(storeless.errors.contains("simulator holds no log: the file store is missing"), "\(storeless.errors)")
      try FileManager.default.removeItem(atPath: folder + "/data/simulator")
      let gone = try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
      #expect(gone.errors.contains("simulator is missing, and "), "\(gone.errors)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: folder + "/backup/backup.json")) == set)

      for name in ["keys.sqlite", "webhooks.sqlite"] {
        let copy = URL(fileURLWithPath: "\(folder)/backup/files-1/\(name)")
        let good = try Data(contentsOf: copy)
        var damaged = good
        damaged[damaged.count - 1] ^= 1
        try damaged.write(to: copy)
        let refused = try await command(folder, "restore", "--from", "backup", "--dir", "next", code: 1)
        #expect(refused.errors.contains("\(name) is damaged: its checksum differs"), "\(refused.errors)")
        try FileManager.default.removeItem(at: copy)
        let missing = try await command(folder, "restore", "--from", "backup", "--dir", "next", code: 1)
        #expect(missing.errors.contains("\(name): No such file or directory"), "\(missing.errors)")
        #expect(!exists(folder + "/next") && !exists(copy.path))
        try good.write(to: copy)
      }
      try await command(folder, "restore", "--from", "backup", "--dir", "next")
    }
  }

  @Test("what is no data directory, no backup, or damaged is refused with its name, and nothing is changed")
  func refusals() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      _ = try await server.createPayment("1")
      _ = try await command(folder, "keys", "create", "--dir", "data", "--name", "a", "--scope", "read")
      try await server.killHard()
      for name in ["empty", "other", "torn", "timeless", "data/inner"] {
        try FileManager.default.createDirectory(atPath: "\(folder)/\(name)", withIntermediateDirectories: true)
      }
      try Data("x".utf8).write(to: URL(fileURLWithPath: folder + "/other/letter.txt"))
      try Data("{".utf8).write(to: URL(fileURLWithPath: folder + "/torn/backup.json"))
      try Data(#"{"version":2,"storeID":"a","events":0,"folder":1,"files":[],"time":"yesterday"}"#.utf8)
        .write(to: URL(fileURLWithPath: folder + "/timeless/backup.json"))
      try FileManager.default.createSymbolicLink(
        atPath: folder + "/link", withDestinationPath: folder + "/data/inner")
      let cases: [(arguments: [String], text: String)] = [
        (
          ["backup", "--dir", "empty", "--to", "backup"], "empty can't be used as data directory: it holds no payments"
        ),
        (["backup", "--dir", "data", "--to", "link"], "is lost together with the data"),
        (["backup", "--dir", "data", "--to", "link/new/deep"], "is lost together with the data"),
        (["restore", "--from", "timeless", "--dir", "new"], "timeless/backup.json is damaged"),
        (["restore", "--from", "torn", "--dir", "new"], "torn/backup.json is damaged"),
        (["backup", "--dir", "data", "--to", "data/backup"], "is lost together with the data"),
        (["backup", "--dir", "data", "--to", "data"], "is lost together with the data"),
        (["backup", "--dir", "data", "--to", "other"], "holds letter.txt, which is no part of a backup"),
        (["restore", "--from", "empty", "--dir", "new"], "empty is no complete backup of a server"),
        (["restore", "--from", "missing", "--dir", "new"], "missing"),
      ]
      for (arguments, text) in cases {
        let process = try start(folder, arguments)
        #expect(try await process.waitForExit() == .init(code: 1, isSignal: false), "\(arguments)")
        #expect(process.errorText.contains(text), "\(arguments): \(process.errorText)")
        #expect(process.errorText.split(separator: "\n").count == 1, "\(process.errorText)")
      }
      #expect(!exists(folder + "/new") && !exists(folder + "/missing") && !exists(folder + "/data/backup"))
      #expect(!exists(folder + "/data/inner/new"))
      try await command(folder, "backup", "--dir", "data", "--to", "backup")
      let copy = folder + "/backup/files-1/keys.sqlite"
      let inside = try await command(folder, "restore", "--from", "backup", "--dir", "backup/in", code: 1)
      #expect(inside.errors.contains("/backup, which is a backup"), "\(inside.errors)")
      let before = try Data(contentsOf: URL(fileURLWithPath: copy))
      // The file's first page of data.
      let keys = try FileHandle(forWritingTo: URL(fileURLWithPath: folder + "/data/keys.sqlite"))
      try keys.seek(toOffset: 4096)
      try keys.write(contentsOf: Data(repeating: 0xFF, count: 4096))
      try keys.close()
      let damaged = try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
      #expect(damaged.errors.contains("can't copy") && damaged.errors.contains("keys.sqlite"), "\(damaged.errors)")
      try FileManager.default.removeItem(atPath: folder + "/data/keys.sqlite")
      let lost = try await command(folder, "backup", "--dir", "data", "--to", "backup", code: 1)
      #expect(lost.errors.contains("keys.sqlite is missing, and "), "\(lost.errors)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: copy)) == before, "the good copy stays")
    }
  }
}
