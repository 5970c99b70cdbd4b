import Foundation
import Testing

/// What keeps a server from starting: `regispay doctor` and `regispay serve` agree.
extension RegisPayDoctorTests {
  /// Something that keeps a server from starting.
  private struct Obstacle {
    var name: String
    /// The check that finds it.
    var check: String
    /// In the data directory; false if this machine can't do it.
    var make: (String) async throws -> Bool

    init(_ name: String, _ check: String, _ make: @escaping (String) async throws -> Bool) {
      (self.name, self.check, self.make) = (name, check, make)
    }
  }

  private func run(_ words: [String], in folder: String) async throws -> Bool {
    let process = try RegisPayProcess(program: words[0], Array(words.dropFirst()), folder: folder)
    return try await process.waitForExit() == .init(code: 0, isSignal: false)
  }

  private func obstacles(_ folder: String) -> [Obstacle] {
    let files = FileManager.default
    func shell(_ check: String, _ name: String, _ command: String) -> Obstacle {
      Obstacle(name, check) { data in
        try await run(["sh", "-c", "cd \(data) && \(command)"], in: folder)
      }
    }
    func sqlite(_ file: String, _ sql: String) -> String {
      "python3 -c \"import sqlite3; c = sqlite3.connect('\(file)'); c.executescript('\(sql)'); c.close()\""
    }
    let hooks = "webhooks/webhooks.sqlite"
    return [
      shell("keys", "keys.sqlite is gone", "rm keys.sqlite"),
      shell("keys", "keys.sqlite is empty", ": > keys.sqlite"),
      shell("keys", "no key is left", sqlite("keys.sqlite", "DELETE FROM key")),
      shell("keys", "keys.sqlite is newer", sqlite("keys.sqlite", "PRAGMA user_version = 9")),
      shell("webhooks", "webhooks/ is gone", "rm -r webhooks"),
      shell("webhooks", "webhooks.sqlite is gone", "rm \(hooks)"),
      shell("webhooks", "webhooks.sqlite is empty", ": > \(hooks)"),
      shell("webhooks", "webhooks.sqlite is garbage", "yes garbage | head -c 7000 > \(hooks)"),
      shell("webhooks", "no endpoint is left", sqlite(hooks, "DELETE FROM endpoint")),
      shell("webhooks", "an endpoint can't be read", sqlite(hooks, "UPDATE endpoint SET url = 7")),
      shell("webhooks", "webhooks.sqlite is newer", sqlite(hooks, "PRAGMA user_version = 9")),
      shell(
        "webhooks", "webhooks.sqlite is damaged",
        "python3 -c \"f = open('\(hooks)', 'r+b'); f.seek(100); f.write(b'\\xff' * 3000)\""),
      shell("webhooks", "webhooks is a file", "rm -r webhooks && : > webhooks"),
      shell("store", "simulator/ is a copy of payments/", "rm -r simulator && cp -a payments simulator"),
      shell("store", "payments/ is a copy of simulator/", "rm -r payments payments.known && cp -a simulator payments"),
      shell("store", "payments/ and payments.known are gone", "rm -r payments payments.known"),
      shell("store", "payments/ is empty and payments.known is gone", "rm -r payments/* payments.known"),
      shell("store", "only webhooks tell of the log", "rm -r payments payments.known projection"),
      Obstacle("the directory is a link to nothing", "permissions") { data in
        try files.removeItem(atPath: data)
        try files.createSymbolicLink(atPath: data, withDestinationPath: folder + "/nothing/data")
        return true
      },
      Obstacle("the directory above is a link to nothing", "permissions") { data in
        try files.removeItem(atPath: data)
        try files.createSymbolicLink(atPath: data, withDestinationPath: folder + "/nothing")
        return true
      },
      shell("permissions", "projection is a file", "rm -r projection && : > projection"),
      shell("permissions", "projection is a link to nothing", "rm -r projection && ln -s /nothing/there projection"),
      shell("permissions", "the last segment is immutable", "chattr +i $(ls payments/*.log | tail -n 1)"),
      shell("permissions", "the last segment can only be appended to", "chattr +a $(ls payments/*.log | tail -n 1)"),
      shell("permissions", "webhooks.sqlite is immutable", "chattr +i \(hooks)"),
    ]
  }

  @Test("whatever keeps the server from starting is a problem, and what does not is none")
  func agreesWithServe() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      #expect(try await server.post("/api/v1/webhooks", #"{"url": "https://example.com/"}"#).status == 201)
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      #expect(
        try await run(
          [
            RegisPayProcess.buildFolder.appendingPathComponent("regispay").path, "keys", "create", "--dir",
            folder + "/data", "--name", "a", "--scope", "read",
          ], in: folder))
      // The server notes on its log that there are keys.
      try await eventually("the log is marked", within: .seconds(20)) {
        let stat = try RegisPayProcess(
          program: RegisPayProcess.buildFolder.appendingPathComponent("logstore").path,
          ["stat", "--json", "--dir", folder + "/data/payments"], folder: folder)
        return try await stat.nextLine()?.contains("api-keys-required") == true
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      let data = folder + "/next"
      let arguments = ["--dir", data, "--port", "0", "--segment-bytes", "1048576"]
      for obstacle in [Obstacle("nothing", "") { _ in true }] + obstacles(folder) {
        #expect(try await run(["cp", "-a", folder + "/data", data], in: folder))
        let isMade = try await obstacle.make(data)
        if isMade {
          let report = try await doctor(arguments, in: folder)
          let problems = report.findings.filter { $0.result == "problem" }
          #expect(
            problems.map(\.id).contains(obstacle.check) == !obstacle.check.isEmpty, "\(obstacle.name): \(report.output)"
          )
          #expect(problems.isEmpty == obstacle.check.isEmpty, "\(obstacle.name): \(problems)")
          let next = try RegisPayProcess(["serve"] + arguments, folder: folder)
          let line = try await next.nextLine()
          #expect((line != nil) == obstacle.check.isEmpty, "\(obstacle.name): \(line ?? next.errorText)")
          if line != nil { next.signal(SIGTERM) }
          #expect(try await next.waitForExit().code == (obstacle.check.isEmpty ? 0 : 1), "\(obstacle.name)")
        }
        _ = try await run(["sh", "-c", "chattr -R -i -a \(data) 2> /dev/null; rm -r \(data)"], in: folder)
      }
    }
  }

  /// Listens on a free port and prints it; its name is the first argument.
  private static let holder = """
    import ctypes, signal, socket, sys
    ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    held.listen()
    print(held.getsockname()[1], flush=True)
    signal.pause()
    """

  @Test(
    "a socket that systemd holds for the server by a unit is no problem, by name and where its holder can't be seen",
    .enabled(if: geteuid() == 0 && access("/etc/systemd/system", F_OK) == 0))
  func heldSocket() async throws {
    try await withTemporaryFolder { folder in
      #expect(chmod(folder, 0o755) == 0)
      let units = folder + "/units"
      try FileManager.default.createDirectory(atPath: units, withIntermediateDirectories: false)
      for (holder, result) in [("systemd-test", "ok"), ("python3", "warning")] {
        let process = try RegisPayProcess(program: "python3", ["-c", Self.holder, holder], folder: folder)
        let port = try #require(try await process.nextLine(), "\(process.errorText)")
        let arguments = ["--dir", folder + "/data", "--port", port]
        let none = try await doctor(arguments, in: folder)
        #expect(none.results("port") == ["warning"], "\(none.output)")
        let example = CommandBlock.repository.appendingPathComponent("docs/examples/regispay.socket")
        let unit = try String(contentsOf: example, encoding: .utf8).replacing("8080", with: port)
        try Data(unit.utf8).write(to: URL(fileURLWithPath: units + "/regispay.socket"))
        try Data("[Service]\nExecStart=/usr/bin/regispay serve\n".utf8).write(
          to: URL(fileURLWithPath: units + "/regispay.service"))
        let withUnits = mounted("mount --bind \(units) /etc/systemd/system")
        let found = try await doctor(arguments, in: folder, under: withUnits)
        #expect(found.results("port") == [result], "\(holder): \(found.output)")
        let unseen = try await doctor(
          arguments, in: folder, under: withUnits + ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
        #expect(
          unseen.results("port") == ["ok"] && unseen.found("port").contains("regispay.socket has systemd hold it"),
          "\(unseen.output)")
        try FileManager.default.removeItem(atPath: units + "/regispay.socket")
        let foreign = try await doctor(
          arguments, in: folder, under: ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
        #expect(foreign.results("port") == ["problem"], "\(foreign.output)")
        process.signal(SIGKILL)
        _ = try await process.waitForExit()
      }
    }
  }
}
