import Foundation
import Testing

/// What another user of the machine can do to a store and a server: nothing. As root, with `setpriv`; skipped otherwise.
@Suite("Another user of the machine", .serialized)
struct OtherUserTests {
  /// Runs a program as `nobody`, in the group `nobody` or another.
  private static func stranger(group: Int = 65_534) -> [String] {
    ["setpriv", "--reuid=65534", "--regid=\(group)", "--clear-groups"]
  }

  private static func umask(_ mask: String) -> [String] { ["sh", "-c", "umask \(mask); exec \"$@\"", "sh"] }

  private static let canBeAnother = geteuid() == 0 && FileManager.default.fileExists(atPath: "/usr/bin/setpriv")

  private static var logstore: String {
    RegisPayProcess.buildFolder.appendingPathComponent("logstore").path
  }

  /// Runs a program to its end.
  private func run(
    _ words: [String], folder: String, within limit: Duration = .seconds(60)
  ) async throws -> (code: Int32, errors: String) {
    let process = try RegisPayProcess(program: words[0], Array(words.dropFirst()), folder: folder)
    let code = try await process.waitForExit(within: limit).code
    return (code, process.errorText)
  }

  /// Everything below a directory and itself, with its mode.
  private func modes(_ directory: String) throws -> [(path: String, isDirectory: Bool, mode: Int)] {
    let manager = FileManager.default
    return try (["."] + manager.subpathsOfDirectory(atPath: directory)).map { name in
      let attributes = try manager.attributesOfItem(atPath: directory + "/" + name)
      return (
        name, attributes[.type] as? FileAttributeType == .typeDirectory, attributes[.posixPermissions] as? Int ?? -1
      )
    }
  }

  /// Makes a data directory with all that there can be in it, and copies of it, beside a running server.
  ///
  /// - Returns: the field that lets a request see and create payments.
  @discardableResult
  private func fill(
    _ folder: String, umask: String, arguments: [String] = []
  ) async throws -> [(String, String)] {
    let server = try await RunningServer.start(
      directory: folder, arguments: arguments + ["--allow-private-webhooks"], under: Self.umask(umask))
    _ = try await server.post("/api/v1/webhooks", #"{"url": "http://127.0.0.1:1025/"}"#)
    let id = try await server.createPayment("1")
    try await server.wait(for: id, status: "Completed", within: .seconds(20))
    let log = folder + "/data/payments"
    for command in [
      [Self.logstore, "backup", "--dir", log, "--to", folder + "/backup/"] + arguments,
      [Self.logstore, "backup", "--dir", log, "--to", folder + "/backup.file"] + arguments,
      [Self.logstore, "restore", "--from", folder + "/backup.file", "--dir", folder + "/restored"] + arguments,
      [Self.logstore, "reindex", "--dir", folder + "/restored"] + arguments,
    ] {
      let result = try await run(Self.umask(umask) + command, folder: folder)
      try #require(result.code == 0, "\(command): \(result.errors)")
    }
    let keys = try RegisPayProcess(
      under: Self.umask(umask),
      ["keys", "create", "--dir", folder + "/data", "--name", "a", "--scope", "read", "--scope", "write"],
      folder: folder)
    let key = try #require(try await keys.nextLine())
    #expect(try await server.stopGracefully().code == 0)
    return [("Authorization", "Bearer \(key)"), ("Content-Type", "application/json")]
  }

  @Test(
    "a umask that takes even the owner's rights keeps no user from a store of their own", .enabled(if: canBeAnother))
  func ownersUmask() async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: folder)
      let command = Self.stranger() + Self.umask("777") + [Self.logstore]
      let store = folder + "/store"
      for arguments in [["append", "--dir", store], ["stat", "--dir", store]] {
        let result = try await run(command + arguments, folder: folder)
        #expect(result.code == 0, "\(arguments): \(result.errors)")
      }
    }
  }

  @Test("may read nothing that was made, whatever the umask", arguments: ["000", "022", "077", "777"])
  func modes(umask: String) async throws {
    try await withTemporaryFolder { folder in
      try await fill(folder, umask: umask)
      for part in ["data", "backup", "restored"] {
        let found = try modes(folder + "/" + part)
        #expect(found.count > 3)
        for entry in found {
          #expect(entry.mode == (entry.isDirectory ? 0o700 : 0o600), "\(part)/\(entry.path) with umask \(umask)")
        }
      }
      #expect(try modes(folder).first { $0.path == "backup.file" }?.mode == 0o600)
    }
  }

  @Test(
    "in the group reads the logs, with --group-access, beside the server: not the rest, and can't lock",
    .enabled(if: canBeAnother))
  func group() async throws {
    try await withTemporaryFolder { folder in
      let headers = try await fill(folder, umask: "022", arguments: ["--group-access"])
      let secret = [
        "data/keys.sqlite", "data/webhooks", "data/projection", "data/payments.known", "data/starts", "data/crashed",
        "data/time",
      ]
      for part in ["data", "backup", "restored"] {
        for entry in try modes(folder + "/" + part) {
          let name = entry.path == "." ? part : part + "/" + entry.path
          let isPrivate = secret.contains { name.hasPrefix($0) } || name.hasSuffix("/lock")
          let mode = entry.isDirectory ? 0o750 : 0o640
          #expect(entry.mode == (isPrivate ? mode & 0o700 : mode), "\(name)")
        }
      }
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--group-access"])
      let member = Self.stranger(group: Int(getegid()))
      let log = folder + "/data/payments"
      let tail = try RegisPayProcess(
        program: member[0], Array(member.dropFirst()) + [Self.logstore, "tail", "--dir", log, "--from", "end"],
        folder: folder)
      for command in [["dump"], ["stat"], ["verify"]] {
        let result = try await run(member + [Self.logstore] + command + ["--dir", log], folder: folder)
        #expect(result.code == 0, "\(command): \(result.errors)")
      }
      #expect(try await run(member + ["flock", "-n", "-s", log + "/lock", "true"], folder: folder).code != 0)
      #expect(try await server.stopGracefully().code == 0)
      let dump = try await run(member + [Self.logstore, "dump", "--dir", log], folder: folder)
      #expect(dump.code == 0, "without a writer: \(dump.errors)")
      let again = try await RunningServer.start(directory: folder, arguments: ["--group-access"])
      let made = try await again.post(
        "/api/payment/create", #"{"amount": 3, "currency": "GBP"}"#, headers: headers)
      let id = try #require(try made.object()["paymentId"] as? String)
      #expect(try await tail.nextLine()?.contains(id) == true, "it follows the next writer")
      tail.signal(SIGTERM)
      _ = try await tail.waitForExit()
    }
  }

  /// SQLite's files of a data directory: databases, and those beside them.
  private func databases(_ folder: String) throws -> [(path: String, isDirectory: Bool, mode: Int)] {
    try modes(folder + "/data").filter { $0.path.contains(".sqlite") }
  }

  @Test(
    "reads and locks no SQLite file, of a running server or left by a killed one, also where they were open to all",
    .enabled(if: canBeAnother), arguments: ["022", "000"])
  func databases(umask: String) async throws {
    try await withTemporaryFolder { folder in
      let headers = try await fill(folder, umask: umask)
      for isOld in [false, true] {
        if isOld {
          // As an earlier version, or somebody, left them; their directories as well.
          _ = try await run(["chmod", "-R", "a+rX", folder], folder: folder)
          for entry in try databases(folder) {
            _ = try await run(["chmod", "666", folder + "/data/" + entry.path], folder: folder)
          }
        }
        let server = try await RunningServer.start(directory: folder, under: Self.umask(umask))
        let made = try await server.post(
          "/api/payment/create", #"{"amount": 3, "currency": "GBP"}"#, headers: headers)
        #expect(made.status == 200)
        let found = try databases(folder)
        for name in [
          "keys.sqlite", "projection/payments.sqlite", "webhooks/webhooks.sqlite", "webhooks/webhooks.sqlite-wal",
          "webhooks/webhooks.sqlite-shm",
        ] {
          #expect(found.contains { $0.path.hasSuffix(name) }, "\(found)")
        }
        for entry in found {
          #expect(entry.mode == 0o600, "\(entry.path) with umask \(umask)")
          let path = folder + "/data/" + entry.path
          for command in [["cat", path], ["flock", "-n", "-s", path, "true"], ["sh", "-c", ": >> \(path)"]] {
            #expect(try await run(Self.stranger() + command, folder: folder).code != 0, "\(command)")
          }
        }
        // What SQLite keeps beside its files stays there.
        try await server.killHard()
        #expect(try databases(folder).contains { $0.path.hasSuffix("webhooks.sqlite-wal") })
      }
    }
  }

  /// Opens files while that is possible, and locks them as SQLite does.
  private static let heldOpen = """
    import fcntl, os, sys, time
    for path in sys.argv[1:]:
        fcntl.lockf(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)
    print("held", flush=True)
    time.sleep(600)
    """

  @Test(
    "that has SQLite files open and locked from a time when it could holds up no start, no key and no webhook",
    .enabled(if: canBeAnother && FileManager.default.fileExists(atPath: "/usr/bin/python3")))
  func heldDatabases() async throws {
    try await withTemporaryFolder { folder in
      let headers = try await fill(folder, umask: "022")
      // Killed, so that there are files beside the databases.
      try await RunningServer.start(directory: folder).killHard()
      _ = try await run(["chmod", "-R", "a+rX", folder], folder: folder)
      let files = try databases(folder).map { folder + "/data/" + $0.path }
      #expect(files.count >= 5)
      let words = Self.stranger() + ["/usr/bin/python3", "-c", Self.heldOpen] + files
      let holder = try RegisPayProcess(program: words[0], Array(words.dropFirst()), folder: folder)
      #expect(try await holder.nextLine() == "held", "\(holder.errorText)")
      let server = try await RunningServer.start(directory: folder, arguments: ["--allow-private-webhooks"])
      let create = ["keys", "create", "--dir", folder + "/data", "--name", "b", "--scope", "operate"]
      let keys = try RegisPayProcess(create, folder: folder)
      let key = try #require(try await keys.nextLine(), "\(keys.errorText)")
      let operate = [("Authorization", "Bearer \(key)"), ("Content-Type", "application/json")]
      try await eventually("the new key is known", within: .seconds(20)) {
        try await server.post("/api/v1/webhooks", #"{"url": "http://127.0.0.1:1026/"}"#, headers: operate).status == 201
      }
      let made = try await server.post("/api/payment/create", #"{"amount": 3, "currency": "GBP"}"#, headers: headers)
      #expect(made.status == 200, "the keys that were there are kept")
      #expect(kill(holder.pid, 0) == 0, "it holds the files still")
      #expect(try await server.stopGracefully().code == 0)
    }
  }

  @Test("lists, reads and locks nothing, and holds no start up", .enabled(if: canBeAnother))
  func stranger() async throws {
    try await withTemporaryFolder { folder in
      try await fill(folder, umask: "022")
      let data = folder + "/data"
      for command in [
        ["ls", data], ["ls", data + "/payments"], ["cat", data + "/keys.sqlite"],
        ["flock", "-n", "-s", data + "/payments/lock", "true"], ["flock", "-n", data, "true"],
        [Self.logstore, "dump", "--dir", data + "/payments"], [Self.logstore, "append", "--dir", data + "/payments"],
      ] {
        #expect(try await run(Self.stranger() + command, folder: folder).code != 0, "\(command)")
      }
      _ = try await RunningServer.start(directory: folder)
    }
  }

  @Test(
    "that holds the lock file of a directory that an earlier version left open to all holds no start up",
    .enabled(if: canBeAnother), arguments: [["-s"], ["-x"]])
  func oldDirectory(kind: [String]) async throws {
    try await withTemporaryFolder { folder in
      let headers = try await fill(folder, umask: "022")
      let lock = folder + "/data/payments/lock"
      _ = try await run(["chmod", "-R", "a+rX", folder + "/data"], folder: folder)
      let words = Self.stranger() + ["flock", "-F"] + kind + [lock, "sh", "-c", "echo held; exec sleep 600"]
      let holder = try RegisPayProcess(program: words[0], Array(words.dropFirst()), folder: folder)
      #expect(try await holder.nextLine() == "held")
      let server = try await RunningServer.start(directory: folder)
      #expect(kill(holder.pid, 0) == 0, "it holds the lock still")
      #expect(try FileManager.default.attributesOfItem(atPath: lock)[.posixPermissions] as? Int == 0o600)
      let health = String(decoding: try await server.get("/health", headers: headers).body, as: UTF8.self)
      #expect(health.contains("warning: others may read \(folder)/data/payments (mode 0755): chmod"), "\(health)")
      // The new file excludes as the old one did, and the message names who is there.
      let second = try await run(
        [Self.logstore, "append", "--dir", folder + "/data/payments", "--stream", "a", "--type", "b", "--data", "c"],
        folder: folder)
      #expect(second.code != 0)
      #expect(second.errors.contains("process \(server.process.pid) (regispay, user 0)"), "\(second.errors)")
    }
  }

  /// A lock that a child took which has ended, while its parent keeps the descriptor: the kernel names the child.
  private static let heldForEndedChild = """
    import fcntl, os, sys, time
    f = os.open(sys.argv[1], os.O_RDONLY)
    if os.fork() == 0:
        fcntl.flock(f, fcntl.LOCK_EX if sys.argv[2] == "-x" else fcntl.LOCK_SH)
        os._exit(0)
    os.wait()
    print("held", flush=True)
    time.sleep(600)
    """

  @Test(
    "that keeps a lock which an ended child took holds no start up, no reader and no repair",
    .enabled(if: canBeAnother && FileManager.default.fileExists(atPath: "/usr/bin/python3")), arguments: ["-s", "-x"])
  func endedChild(kind: String) async throws {
    try await withTemporaryFolder { folder in
      try await fill(folder, umask: "022")
      let log = folder + "/data/payments"
      let steps = [
        [Self.logstore, "dump", "--dir", log], [Self.logstore, "repair", "--dir", log, "--to", folder + "/repaired"],
        [Self.logstore, "append", "--dir", log, "--stream", "a", "--type", "b", "--data", "c"],
      ]
      for step in steps {
        _ = try await run(["chmod", "-R", "a+rX", folder + "/data"], folder: folder)
        let words = Self.stranger() + ["/usr/bin/python3", "-c", Self.heldForEndedChild, log + "/lock", kind]
        let holder = try RegisPayProcess(program: words[0], Array(words.dropFirst()), folder: folder)
        #expect(try await holder.nextLine() == "held")
        let result = try await run(step, folder: folder, within: .seconds(20))
        #expect(result.code == 0, "\(step): \(result.errors)")
        holder.signal(SIGKILL)
        _ = try await holder.waitForExit()
      }
    }
  }

  @Test(
    "that locks a directory which it may read holds nothing up, and lets no second writer in",
    .enabled(if: canBeAnother), arguments: [["-s"], ["-x"]])
  func lockedDirectory(kind: [String]) async throws {
    try await withTemporaryFolder { folder in
      try await fill(folder, umask: "022")
      let log = folder + "/data/payments"
      let append = [Self.logstore, "append", "--dir", log, "--stream", "a", "--type", "b", "--data", "c"]
      let dump = [Self.logstore, "dump", "--dir", log]
      _ = try await run(["chmod", "a+rx", folder, folder + "/data", log], folder: folder)
      let words = Self.stranger() + ["flock", "-F"] + kind + [log, "sh", "-c", "echo held; exec sleep 600"]
      let holder = try RegisPayProcess(program: words[0], Array(words.dropFirst()), folder: folder)
      #expect(try await holder.nextLine() == "held")
      #expect(try await run(append, folder: folder).code == 0)
      #expect(try await run(dump, folder: folder).code == 0)
      let server = try await RunningServer.start(directory: folder)
      #expect(try await run(append, folder: folder).code != 0)
      try FileManager.default.removeItem(atPath: log + "/lock")
      #expect(try await run(append, folder: folder).code != 0, "the server writes `tail`")
      #expect(kill(holder.pid, 0) == 0, "it holds the directory still")
      holder.signal(SIGKILL)
      _ = try await holder.waitForExit()
      #expect(try await run(append, folder: folder).code != 0, "the server writes `tail`, and holds no directory")
      try await server.killHard()
      #expect(try await run(append, folder: folder).code == 0)
    }
  }

  @Test(
    "that makes the names of unfinished backups and stores first reads nothing, and leads nothing elsewhere",
    .enabled(if: canBeAnother))
  func names() async throws {
    try await withTemporaryFolder { folder in
      let shared = folder + "/shared"
      let (store, victim, own) = (folder + "/store", folder + "/victim", folder + "/own")
      func make(_ words: [String]) async throws {
        let result = try await run(Self.stranger() + words, folder: folder)
        try #require(result.code == 0, "\(words): \(result.errors)")
      }
      func logstore(_ words: String...) async throws -> (code: Int32, errors: String) {
        try await run([Self.logstore] + words, folder: folder)
      }
      let append = ["append", "--dir", store, "--stream", "a", "--type", "b", "--data", "secret"]
      #expect(try await run([Self.logstore] + append, folder: folder).code == 0)
      let good = folder + "/good.bak"
      #expect(try await logstore("backup", "--dir", store, "--to", good).code == 0)
      try FileManager.default.createDirectory(atPath: own, withIntermediateDirectories: false)
      try Data("kept".utf8).write(to: URL(fileURLWithPath: victim))
      _ = try await run(["mkdir", "-m", "1777", shared], folder: folder)
      _ = try await run(["chmod", "a+rx", folder], folder: folder)

      try await make(["sh", "-c", "umask 0; : > \(shared)/b.bak.tmp"])
      var result = try await logstore("backup", "--dir", store, "--to", shared + "/b.bak")
      #expect(result.code != 0)
      #expect(result.errors.contains("belongs to another user (65534)"), "\(result.errors)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: shared + "/b.bak.tmp")).isEmpty)
      try await make(["ln", "-s", victim, shared + "/c.bak.tmp"])
      result = try await logstore("backup", "--dir", store, "--to", shared + "/c.bak")
      #expect(result.code != 0)
      #expect(result.errors.contains("symbolic link"), "\(result.errors)")

      for (kind, reason) in [(["mkdir", "-m", "777"], "another user (65534)"), (["ln", "-s", own], "symbolic link")] {
        let name = shared + "/" + kind[0]
        try await make(kind + [name + ".repairing"])
        try await make(kind + [name + ".restoring"])
        result = try await logstore("repair", "--dir", store, "--to", name)
        #expect(result.code != 0 && result.errors.contains(reason), "\(result.errors)")
        result = try await logstore("restore", "--from", good, "--dir", name)
        #expect(result.code != 0 && result.errors.contains(reason), "\(result.errors)")
      }

      let directory = shared + "/backup"
      #expect(try await logstore("backup", "--dir", store, "--to", directory + "/").code == 0)
      let manifest = try #require(
        try FileManager.default.contentsOfDirectory(atPath: directory).first { $0.hasPrefix("manifest") })
      _ = try await run(["chmod", "1777", directory], folder: folder)
      try await make(["ln", "-s", victim, directory + "/" + manifest + ".tmp"])
      #expect(try await run([Self.logstore] + append, folder: folder).code == 0)
      result = try await logstore("backup", "--dir", store, "--to", directory + "/")
      #expect(result.code != 0 && result.errors.contains("another user's (65534)"), "\(result.errors)")

      #expect(try Data(contentsOf: URL(fileURLWithPath: victim)) == Data("kept".utf8))
      #expect(try FileManager.default.contentsOfDirectory(atPath: own).isEmpty)
      // What is left of this user's own is no hindrance.
      #expect(FileManager.default.createFile(atPath: shared + "/d.bak.tmp", contents: Data("LSBST".utf8)))
      try FileManager.default.createDirectory(atPath: shared + "/d.repairing", withIntermediateDirectories: false)
      #expect(try await logstore("backup", "--dir", store, "--to", shared + "/d.bak").code == 0)
      #expect(try await logstore("repair", "--dir", store, "--to", shared + "/d").code == 0)
      #expect(try await logstore("restore", "--from", shared + "/d.bak", "--dir", shared + "/e").code == 0)
    }
  }

  @Test("that a refused start closes an open lock file all the same", .enabled(if: canBeAnother))
  func refusedStartCloses() async throws {
    try await withTemporaryFolder { folder in
      let store = folder + "/store"
      let append = [Self.logstore, "append", "--dir", store, "--stream", "a", "--type", "b", "--data", "c"]
      #expect(try await run(append, folder: folder).code == 0)
      _ = try await run(["chmod", "644", store + "/lock"], folder: folder)
      let holder = try RegisPayProcess(
        program: "flock", ["-F", "-s", store + "/lock", "sh", "-c", "echo held; exec sleep 600"], folder: folder)
      #expect(try await holder.nextLine() == "held")
      #expect(try await run(append, folder: folder).code != 0, "its holder is of this user")
      #expect(try FileManager.default.attributesOfItem(atPath: store + "/lock")[.posixPermissions] as? Int == 0o600)
      holder.signal(SIGKILL)
      _ = try await holder.waitForExit()
    }
  }

  @Test(
    "that a lock of this user's own is not taken from, and the message names its holder", .enabled(if: canBeAnother))
  func ownHolder() async throws {
    try await withTemporaryFolder { folder in
      let store = folder + "/store"
      let append = [Self.logstore, "append", "--dir", store, "--stream", "a", "--type", "b", "--data", "c"]
      #expect(try await run(append, folder: folder).code == 0)
      // Read-only, as an earlier version's repair holds it.
      let holder = try RegisPayProcess(
        program: "sh", ["-c", "exec 9<\"$0\"; flock -s 9; echo held; exec sleep 600", store + "/lock"], folder: folder)
      #expect(try await holder.nextLine() == "held")
      let refused = try await run(append, folder: folder)
      #expect(refused.code != 0)
      #expect(refused.errors.contains("locked by a process that has the lock from process"), "\(refused.errors)")
      holder.signal(SIGKILL)
      _ = try await holder.waitForExit()
      #expect(try await run(append, folder: folder).code == 0, "none is alive")
    }
  }
}
