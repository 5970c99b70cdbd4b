import Foundation
import Synchronization
import Testing

extension RunningServer {
  /// Starts `regispay simulator` on `folder/simulator` and waits until it says that it is ready.
  ///
  /// - Parameters:
  ///   - arguments: further ones of `simulator`.
  ///   - port: 0 for a free one.
  ///   - wrapper: a program with its arguments that runs the simulator.
  static func startSimulator(
    _ folder: String, arguments: [String] = [], port: Int = 0, under wrapper: [String] = []
  ) async throws -> RunningServer {
    let process = try RegisPayProcess(
      under: wrapper,
      [
        "simulator", "--dir", folder + "/simulator", "--port", "\(port)", "--log-level", "warning", "--log-format",
        "text", "--segment-bytes", "1048576",
      ] + arguments,
      folder: folder)
    guard let line = try await process.nextLine(), let url = line.split(separator: " ").last, url.contains("://")
    else { throw RegisPayProcess.Failure(description: "no address was printed; on stderr: \(process.errorText)") }
    return RunningServer(process: process, url: String(url))
  }

  var port: Int { url.split(separator: ":").last.flatMap { Int($0) } ?? 0 }
}

/// `regispay simulator`: the PSP and the notification service in a process of their own.
@Suite("RegisPay, with its simulator in another process")
struct RegisPaySimulatorTests {
  /// What a load got acknowledged: amounts in minor units, by payment or by the PSP's reference.
  private final class Acknowledged: Sendable {
    private let amounts = Mutex<[String: Int]>([:])

    var all: [String: Int] { amounts.withLock { $0 } }
    func add(_ id: String, _ amount: Int) { amounts.withLock { $0[id] = amount } }
  }

  private static func options(_ simulator: RunningServer) -> [String] {
    [
      "--psp-url", simulator.url + "/psp", "--notifications-url", simulator.url + "/notifications",
      // Neither breaker nor long delays make the test slow: they are tested elsewhere.
      "--breaker-failures", "1000000", "--retry-delay-limit", "0.3", "--call-timeout", "5",
    ]
  }

  @Test("both processes are killed in the middle of a load, and every acknowledged payment completes with one charge")
  func killed() async throws {
    try await withTemporaryFolder { folder in
      // Slow enough that calls are in flight when it is killed; of ten charges, one is made and its response lost.
      let faults = ["--psp-faults", #"{"delay": {"fixed": 30}, "failAfter": 0.05, "dropAfter": 0.05}"#]
      var simulator = try await RunningServer.startSimulator(folder, arguments: faults)
      let options = Self.options(simulator)
      var server = try await RunningServer.start(directory: folder, arguments: options)
      let acknowledged = Acknowledged()
      var next = 1
      for round in 1...4 {
        // The amounts of this round; each is asked for once.
        let amounts = next..<(next + 100)
        next = amounts.upperBound
        try await withThrowingTaskGroup(of: Void.self) { [server] group in
          for worker in 0..<8 {
            group.addTask {
              for amount in stride(from: amounts.lowerBound + worker, to: amounts.upperBound, by: 8) {
                // A request that the killed server did not respond to is not acknowledged.
                guard let id = try? await server.createPayment(decimal(amount)) else { continue }
                acknowledged.add(id, amount)
              }
            }
          }
          let before = acknowledged.all.count
          try await eventually("a part of the load is acknowledged", within: .seconds(30)) {
            acknowledged.all.count >= before + 20
          }
          if round % 2 == 1 {
            try await simulator.killHard()
          } else {
            try await server.killHard()
          }
          try await group.waitForAll()
        }
        if round % 2 == 1 {
          simulator = try await RunningServer.startSimulator(folder, arguments: faults, port: simulator.port)
        } else {
          server = try await RunningServer.start(directory: folder, arguments: options)
        }
      }
      // While the simulator was gone all were accepted.
      #expect(acknowledged.all.count >= 2 * 100 + 2 * 20)
      for id in acknowledged.all.keys { try await server.wait(for: id, status: "Completed", within: .seconds(60)) }
      try await checkLedger(simulator, acknowledged.all)
      // The ledger is the same after a clean stop.
      #expect(try await simulator.stopGracefully() == .init(code: 0, isSignal: false))
      simulator = try await RunningServer.startSimulator(folder)
      try await checkLedger(simulator, acknowledged.all)
      for process in [server, simulator] {
        #expect(try await process.stopGracefully() == .init(code: 0, isSignal: false))
      }
      // The server had no simulator of its own.
      #expect(!FileManager.default.fileExists(atPath: folder + "/data/simulator"))
    }
  }

  private func checkLedger(_ simulator: RunningServer, _ acknowledged: [String: Int]) async throws {
    let ledger = try await simulator.get("/psp/api/ledger").object()
    var charges: [String: Int] = [:]
    for case let charge as [String: Any] in ledger["charges"] as? [Any] ?? [] {
      let id = try #require(charge["paymentId"] as? String)
      #expect(charges[id] == nil, "payment \(id) is charged once")
      charges[id] = minorUnits(charge["amount"])
      if acknowledged[id] != nil { #expect(charge["status"] as? String == "settled") }
    }
    for (id, amount) in acknowledged { #expect(charges[id] == amount, "payment \(id)") }
    #expect(Set(charges.values).count == charges.count, "a request made at most one charge")
  }

  @Test("killed while charges are made, it knows each that it has acknowledged, and repeats none")
  func charges() async throws {
    try await withTemporaryFolder { folder in
      let acknowledged = Acknowledged()
      let first = try await RunningServer.startSimulator(folder)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for worker in 1...32 {
          group.addTask {
            // Until it is gone.
            for amount in stride(from: worker, to: 100_000, by: 32) {
              guard let reference = try? await charge(amount, at: first) else { return }
              acknowledged.add(reference, amount)
            }
          }
        }
        try await eventually("charges are made", within: .seconds(30)) { acknowledged.all.count >= 200 }
        try await first.killHard()
        try await group.waitForAll()
      }
      let second = try await RunningServer.startSimulator(folder)
      for (reference, amount) in acknowledged.all { #expect(try await charge(amount, at: second) == reference) }
      let ledger = try await second.get("/psp/api/ledger").object()
      var found: [String: Int] = [:]
      for case let charge as [String: Any] in ledger["charges"] as? [Any] ?? [] {
        found[try #require(charge["reference"] as? String)] = minorUnits(charge["amount"])
      }
      for (reference, amount) in acknowledged.all { #expect(found[reference] == amount) }
      #expect(Set(found.values).count == found.count, "an amount is charged once")
      #expect(try await second.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a charge is acknowledged only when its sync has ended; killed before, its repeat makes one charge")
  func sync() async throws {
    try await withTemporaryFolder { folder in
      let hang = folder + "/hang"
      let first = try await RunningServer.startSimulator(
        folder, under: ["env", "LD_PRELOAD=\(try await TestTool.hang.value)", "HANG=\(hang)"])
      _ = try await charge(1, at: first)
      // The disk responds no more.
      _ = FileManager.default.createFile(atPath: hang, contents: nil)
      let acknowledged = Acknowledged()
      let second = Task { acknowledged.add(try await charge(2, at: first), 2) }
      let log = URL(fileURLWithPath: folder + "/simulator/ledger")
      try await eventually("the second charge is written", within: .seconds(30)) {
        try FileManager.default.contentsOfDirectory(at: log, includingPropertiesForKeys: nil).contains {
          try $0.pathExtension == "log" && Data(contentsOf: $0).range(of: Data("key:2:create".utf8)) != nil
        }
      }
      #expect(try await first.get("/psp/api/ledger").object()["count"] as? Int == 1)
      try await first.killHard()
      // It ends without a response.
      _ = await second.result
      #expect(acknowledged.all.isEmpty)
      try FileManager.default.removeItem(atPath: hang)
      let restarted = try await RunningServer.startSimulator(folder)
      let reference = try await charge(2, at: restarted)
      #expect(try await charge(2, at: restarted) == reference)
      #expect(try await restarted.get("/psp/api/ledger").object()["count"] as? Int == 2)
      #expect(try await restarted.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  /// Makes a charge, with a key that is the amount's own.
  ///
  /// - Returns: its reference.
  private func charge(_ amount: Int, at simulator: RunningServer) async throws -> String {
    let response = try await simulator.post(
      "/psp/api/payments/create", "{\"amount\":\(decimal(amount)),\"currency\":\"GBP\"}",
      headers: [("Content-Type", "application/json"), ("Idempotency-Key", "\(amount):create")])
    #expect(response.status == 202)
    return try #require(try response.object()["paymentId"] as? String)
  }

  @Test("with a key in the simulator's directory, calls need it, and the server sends it as its token")
  func key() async throws {
    try await withTemporaryFolder { folder in
      func makeKey(_ scope: String) async throws -> String {
        let process = try RegisPayProcess(
          ["keys", "create", "--dir", folder + "/simulator", "--name", scope, "--scope", scope], folder: folder)
        let line = try await process.nextLine()
        #expect(try await process.waitForExit() == .init(code: 0, isSignal: false), "\(process.errorText)")
        return try #require(line)
      }
      let (operate, read) = (try await makeKey("operate"), try await makeKey("read"))
      let simulator = try await RunningServer.startSimulator(folder)
      let body = #"{"amount":1.00,"currency":"GBP"}"#
      let json = ("Content-Type", "application/json")
      #expect(try await simulator.post("/psp/api/payments/create", body).status == 401)
      let reading = ("Authorization", "Bearer " + read)
      #expect(try await simulator.post("/psp/api/payments/create", body, headers: [json, reading]).status == 403)
      #expect(try await simulator.get("/psp/api/ledger").status == 401)
      #expect(try await simulator.get("/alive").status == 200)
      try operate.write(toFile: folder + "/token", atomically: true, encoding: .utf8)
      let server = try await RunningServer.start(
        directory: folder, arguments: Self.options(simulator),
        under: [
          "REGISPAY_PSP_TOKEN_FILE=\(folder)/token", "REGISPAY_NOTIFICATIONS_TOKEN_FILE=\(folder)/token",
        ])
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      let ledger = try await simulator.get("/psp/api/ledger", headers: [reading]).object()
      #expect(ledger["count"] as? Int == 1)
      _ = try await server.stopGracefully()
      #expect(try await simulator.stopGracefully() == .init(code: 0, isSignal: false))
      // Without the keys, which the log remembers, it does not open to everybody.
      try FileManager.default.removeItem(atPath: folder + "/simulator/keys.sqlite")
      let line = try await refusal(["simulator", "--port", "0", "--dir", folder + "/simulator"], folder)
      #expect(line.contains("keys.sqlite"), "\(line)")
    }
  }

  @Test("each program refuses the other's directory, and changes nothing in it")
  func directories() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let (data, other) = (folder + "/data", folder + "/simulator")
      // Beside a running server too.
      let first = try await refusal(["simulator", "--port", "0", "--dir", data], folder)
      #expect(
        first.contains("can't use \(data) as data directory: regispay serve uses it (it holds payments); give"),
        "\(first)")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      let simulator = try await RunningServer.startSimulator(folder)
      #expect(try await simulator.stopGracefully() == .init(code: 0, isSignal: false))
      for (command, directory, user) in [("simulator", data, "serve"), ("serve", other, "simulator")] {
        let before = try FileManager.default.subpathsOfDirectory(atPath: directory)
        let line = try await refusal([command, "--port", "0", "--dir", directory], folder)
        #expect(line.contains("can't use \(directory) as data directory: regispay \(user) uses it"), "\(line)")
        #expect(line.contains("--dir"), "what to do: \(line)")
        #expect(try FileManager.default.subpathsOfDirectory(atPath: directory) == before)
      }
      let log = try await refusal(["simulator", "--port", "0", "--dir", other + "/ledger"], folder)
      #expect(log.contains("did you mean \(other)?"), "\(log)")
    }
  }

  @Test("a second simulator on the directory, a port in use, and an open address without a key are refused")
  func refusals() async throws {
    try await withTemporaryFolder { folder in
      let simulator = try await RunningServer.startSimulator(folder)
      let second = try await refusal(["simulator", "--port", "0", "--dir", folder + "/simulator"], folder)
      #expect(second.contains("\(simulator.process.pid)"), "who holds it: \(second)")
      let port = try await refusal(["simulator", "--port", "\(simulator.port)", "--dir", folder + "/second"], folder)
      #expect(port.contains("port \(simulator.port) of 127.0.0.1 is in use"), "\(port)")
      let open = try await refusal(["simulator", "--host", "0.0.0.0", "--dir", folder + "/third"], folder)
      #expect(open.contains("there is no valid key") && open.contains("--insecure"), "\(open)")
      #expect(!FileManager.default.fileExists(atPath: folder + "/third"))
      // It has not noticed any of them.
      #expect(try await simulator.get("/alive").status == 200)
      simulator.process.signal(SIGINT)
      #expect(try await simulator.process.waitForExit() == .init(code: 0, isSignal: false))
    }
  }

  @Test("it speaks TLS")
  func tls() async throws {
    try await withTemporaryFolder { folder in
      try await SelfSigned.make("one", in: folder)
      let simulator = try await RunningServer.startSimulator(
        folder, arguments: ["--tls-certificate", folder + "/one.crt", "--tls-key", folder + "/one.key"])
      #expect(simulator.url.hasPrefix("https://"))
      let curl = try RegisPayProcess(
        program: "curl",
        ["-sS", "--cacert", folder + "/one.crt", "-w", "\\n", "https://localhost:\(simulator.port)/alive"],
        folder: folder)
      #expect(try await curl.nextLine() == "Healthy", "\(curl.errorText)")
      #expect(try await simulator.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  /// Runs a command that is refused.
  ///
  /// - Returns: its last line.
  private func refusal(_ arguments: [String], _ folder: String) async throws -> String {
    let process = try RegisPayProcess(arguments + ["--log-format", "text"], folder: folder)
    #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
    return process.errorText.split(separator: "\n").last.map(String.init) ?? ""
  }
}
