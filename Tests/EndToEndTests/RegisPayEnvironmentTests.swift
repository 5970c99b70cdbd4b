import Foundation
import Testing

/// What a server is started with: few descriptors, closed ones, signals that are ignored; and how it ends.
@Suite("RegisPay, started by others", .serialized)
struct RegisPayEnvironmentTests {
  @Test("too few descriptors are refused, with how many are needed", arguments: [20, 48, 64, 80, 255])
  func tooFewDescriptors(count: Int) async throws {
    try await withTemporaryFolder { folder in
      let process = try RegisPayProcess(
        under: ["sh", "-c", "ulimit -n \(count); exec \"$@\"", "sh"],
        ["serve", "--dir", folder + "/data", "--port", "0"],
        folder: folder)
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false), "\(process.errorText)")
      #expect(
        process.errorText.contains(
          "the limit of open files is \(count), and the server needs 256; raise the hard limit"
        ))
      #expect(!FileManager.default.fileExists(atPath: folder + "/data"))
    }
  }

  @Test(
    "with the fewest descriptors, all connections taken and a load, clients get responses and the server is idle after it"
  )
  func fewDescriptors() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder, under: ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"])
      let url = server.url
      let idle = try await onThread { (0..<400).compactMap { _ in try? RawConnection(url) } }
      let ids = try await withThrowingTaskGroup(of: String?.self) { group in
        // One that gets no connection may try again.
        for index in 0..<200 { group.addTask { try? await server.createPayment("\(index + 1)") } }
        return try await group.reduce(into: [String]()) { if let id = $1 { $0.append(id) } }
      }
      #expect(!ids.isEmpty)
      for id in ids { try await server.wait(for: id, status: "Completed", within: .seconds(60)) }
      let before = try processorTicks(server.process.pid)
      try await Task.sleep(for: .seconds(2))
      let ticks = try processorTicks(server.process.pid) - before
      // A loop that polls would take most of 200.
      #expect(ticks < 80, "\(ticks) hundredths of a second of two")
      #expect(try await server.get("/alive").status == 200)
      withExtendedLifetime(idle) {}
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false), "\(server.process.errorText)")
    }
  }

  @Test("with the fewest descriptors, receivers of webhooks that never respond leave payments their connections")
  func fewDescriptorsAndSilentReceivers() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder,
        arguments: ["--allow-private-webhooks", "--webhook-timeout", "120", "--log-level", "notice"],
        under: ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"])
      let (listener, port) = try #require(boundSocket(0))
      defer { close(listener) }
      try #require(listen(listener, 512) == 0)
      var endpoints: [String] = []
      for index in 0..<100 {
        let response = try await server.post("/api/v1/webhooks", #"{"url":"http://127.0.0.1:\#(port)/\#(index)"}"#)
        endpoints.append(try #require(try response.object()["id"] as? String))
      }
      // They take all the sockets that calls to webhooks may have, before any call to the PSP.
      // Far fewer than the 96 connections that the server takes with so few descriptors.
      let tests = endpoints.prefix(40).map { id in
        Task { _ = try? await server.post("/api/v1/webhooks/\(id)/test", "") }
      }
      defer { for test in tests { test.cancel() } }
      let receivers = try await onThread { (0..<8).map { _ in accept(listener, nil, nil) } }
      defer { for receiver in receivers { close(receiver) } }
      let url = server.url
      let clients = try await onThread { (0..<30).compactMap { _ in try? RawConnection(url) } }
      for index in 0..<20 {
        let id = try await server.createPayment("\(index + 1)")
        try await server.wait(for: id, status: "Completed", within: .seconds(20))
      }
      let lines = server.process.errorText.split(separator: "\n").filter { $0.contains("wait for room") }
      #expect(!lines.isEmpty && lines.count <= 100, "each endpoint says it once: \(lines.count)")
      withExtendedLifetime(clients) {}
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false), "\(server.process.errorText)")
    }
  }

  /// Root has no limit of threads.
  private static let nobody = ["setpriv", "--reuid=\(user)", "--regid=\(user)", "--clear-groups"]
  /// Nobody else's, since the limit counts all processes of a user.
  private static let user = UInt32.random(in: 100_000_000...2_000_000_000)
  private static let canBeNobody = geteuid() == 0 && FileManager.default.fileExists(atPath: "/usr/bin/setpriv")

  @Test(
    "too few threads are refused, with how many are needed", .enabled(if: canBeNobody), arguments: [4, 12, 16, 20, 30])
  func tooFewThreads(count: Int) async throws {
    try await withTemporaryFolder { folder in
      let process = try RegisPayProcess(
        under: ["prlimit", "--nproc=\(count)"] + Self.nobody,
        ["serve", "--dir", folder + "/data", "--port", "0", "--log-format", "text"], folder: folder)
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false), "\(process.errorText)")
      #expect(process.errorText.hasPrefix("regispay: the system lets "), "\(process.errorText)")
      #expect(process.errorText.contains("ulimit -u"))
    }
  }

  @Test(
    "every command says that it has too few threads, and never waits for them", .enabled(if: canBeNobody),
    arguments: 1...9)
  func commandsWithFewThreads(count: Int) async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: folder)
      for (program, arguments) in [
        ("logstore", ["append", "--dir", folder + "/log"]), ("logstore", ["verify", "--dir", folder + "/log"]),
        ("regispay", ["keys", "list", "--dir", folder + "/data"]),
      ] {
        let path = RegisPayProcess.buildFolder.appendingPathComponent(program).path
        let process = try RegisPayProcess(
          program: path, under: ["prlimit", "--nproc=\(count)"] + Self.nobody, arguments, folder: folder)
        let end = try await process.waitForExit()
        // The first thread counts, too.
        guard count < 9 else {
          return #expect(end.code == 0 || !process.errorText.contains("threads"), "\(process.errorText)")
        }
        #expect(end == .init(code: 1, isSignal: false), "\(count) \(arguments): \(process.errorText)")
        #expect(process.errorText.hasPrefix("\(program): the system lets it start "), "\(process.errorText)")
      }
    }
  }

  @Test(
    "first requests while the system has no more threads end no server, and are served when it has",
    .enabled(if: canBeNobody))
  func noMoreThreads() async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.createDirectory(atPath: folder + "/data", withIntermediateDirectories: false)
      for path in [folder, folder + "/data"] { #expect(chown(path, Self.user, Self.user) == 0) }
      let server = try await RunningServer.start(directory: folder, under: Self.nobody)
      func allow(_ threads: String) async throws {
        let change = try RegisPayProcess(
          program: "setpriv",
          Self.nobody.dropFirst() + ["prlimit", "--pid", "\(server.process.pid)", "--nproc=\(threads):"], folder: folder
        )
        #expect(try await change.waitForExit().code == 0, "\(change.errorText)")
      }
      try await allow("1")
      let paths = ["/api/v1/payments/\(UUID())", "/api/v1/consumers", "/api/v1/payments?sort=-amount", "/health"]
      let requests = paths.map { path in Task { try await server.get(path).status } }
      // For them to ask for threads.
      try await Task.sleep(for: .seconds(2))
      try await allow("10000")
      for (path, request) in zip(paths, requests) {
        #expect(try await request.value == (path == paths[0] ? 404 : 200), "\(path)")
      }
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false), "\(server.process.errorText)")
    }
  }

  @Test("without /proc a program says so, and does not take its arguments for none", .enabled(if: geteuid() == 0))
  func noProc() async throws {
    try await withTemporaryFolder { folder in
      for (program, arguments) in [
        ("logstore", ["verify", "--dir", folder + "/none"]), ("regispay", ["serve", "--dir", folder + "/data"]),
      ] {
        let path = RegisPayProcess.buildFolder.appendingPathComponent(program).path
        let process = try RegisPayProcess(
          program: path, under: ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"],
          arguments, folder: folder)
        #expect(try await process.waitForExit() == .init(code: 1, isSignal: false), "\(process.errorText)")
        #expect(process.errorText.hasPrefix("\(program): can't read its arguments: /proc/self/cmdline: "))
        #expect(process.errorText.split(separator: "\n").count == 1)
      }
    }
  }

  @Test("SIGHUP stops it as SIGTERM does, and under nohup it is ignored")
  func hangup() async throws {
    try await withTemporaryFolder { folder in
      // As from a shell, also where the tests themselves run under nohup.
      let server = try await RunningServer.start(directory: folder, under: ["env", "--default-signal=HUP"])
      server.process.signal(SIGHUP)
      #expect(try await server.process.waitForExit() == .init(code: 0, isSignal: false))
      let ignoring = try await RunningServer.start(
        directory: folder, under: ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"])
      #expect(!ignoring.process.errorText.contains("log opened"), "both logs were closed")
      ignoring.process.signal(SIGHUP)
      let id = try await ignoring.createPayment("1")
      try await ignoring.wait(for: id, status: "Completed", within: .seconds(10))
      #expect(try await ignoring.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("closed standard descriptors are /dev/null, and no log line goes into another file", arguments: [0, 1, 2])
  func closedDescriptors(number: Int) async throws {
    try await withTemporaryFolder { folder in
      let port = try freePort()
      let process = try RegisPayProcess(
        under: ["sh", "-c", "exec \"$@\" \(number)>&-", "sh"],
        ["serve", "--dir", folder + "/data", "--port", "\(port)", "--log-level", "debug"], folder: folder)
      let server = RunningServer(process: process, url: "http://127.0.0.1:\(port)")
      try await eventually("the server responds", within: .seconds(30)) {
        (try? await server.get("/alive").status) == 200
      }
      let link = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process.pid)/fd/\(number)")
      #expect(link == "/dev/null")
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(10))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a stop takes no longer than --stop-timeout, whatever the simulator has still to wait for")
  func stopTimeout() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--stop-timeout", "2", "--call-timeout", "60"])
      let faults = try await server.put("/psp/api/faults", #"{"delay":{"exponentialMean":3000000,"limit":30000}}"#)
      #expect(faults.status == 200)
      _ = try await server.createPayment("1")
      // On its way to the simulator, which keeps it waiting.
      try await Task.sleep(for: .milliseconds(500))
      let before = ContinuousClock.now
      let exit = try await server.stopGracefully()
      #expect(ContinuousClock.now - before < .seconds(4), "\(server.process.errorText)")
      // 1 if what was cut off took too long to end.
      #expect(!exit.isSignal && exit.code <= 1, "\(server.process.errorText)")
    }
  }

  /// Processor time that a process has used, in hundredths of a second.
  private func processorTicks(_ pid: pid_t) throws -> Int {
    let fields = try String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8).split(separator: ")").last?.split(
      separator: " ")
    // The state is the third field of all.
    let (user, system) = (fields.flatMap { Int($0[11]) }, fields.flatMap { Int($0[12]) })
    return try #require(user) + #require(system)
  }
}

/// A port that was free just now, for a program that can't tell its own. It is none of those that the system gives to
/// connections: the programs beside this one open many.
func freePort() throws -> Int {
  for _ in 0..<100 {
    guard let socket = boundSocket(UInt16.random(in: 10_000..<32_768)) else { continue }
    close(socket.descriptor)
    return socket.port
  }
  throw NoFreePort()
}

private struct NoFreePort: Error {}

/// A socket with this port; with 0 it has one of its own. `nil` if the port is not free. The caller closes it.
private func boundSocket(_ port: UInt16) -> (descriptor: Int32, port: Int)? {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  var address = sockaddr_in.loopback(port: port)
  guard address.withSystemAddress({ bind(descriptor, $0, $1.pointee) | getsockname(descriptor, $0, $1) }) == 0 else {
    close(descriptor)
    return nil
  }
  return (descriptor, Int(UInt16(bigEndian: address.sin_port)))
}
