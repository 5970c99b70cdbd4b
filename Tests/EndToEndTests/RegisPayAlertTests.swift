import Foundation
import Testing

/// Each alert of docs/observability/alerts.yml fires when its cause is there, and ends when the cause does. Those whose cause takes
/// hours are in Support/alert_rules.yml.
@Suite("RegisPay's alerts, each with its cause", .serialized)
struct RegisPayAlertTests {
  private func setFaults(_ server: RunningServer, _ faults: String, of service: String = "psp") async throws {
    #expect(try await server.put("/\(service)/api/faults", faults).status == 200)
  }

  /// A server and a Prometheus over it, while `body` runs.
  private func withWatch(
    _ arguments: [String] = [],
    _ body: (RunningServer, AlertWatch, String) async throws -> Void
  ) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: arguments)
      let watch = try await AlertWatch.start(server, in: folder)
      try await body(server, watch, folder)
      try await watch.stop()
      try await server.killHard()
    }
  }

  @Test("the PSP: an outage, the lag by it, refused credentials, a wrong address; and a clock that was set back")
  func provider() async throws {
    try await withTemporaryFolder { folder in
      let clock = folder + "/clock"
      func setClock(by seconds: Int) throws {
        try "\(seconds)\n".write(toFile: clock, atomically: true, encoding: .utf8)
      }
      try setClock(by: 0)
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--retry-delay-limit", "0.2", "--breaker-seconds", "0.3"],
        under: ["env", "LD_PRELOAD=\(try await TestTool.clock.value)", "SHIFTED_CLOCK=\(clock)"])
      let watch = try await AlertWatch.start(server, in: folder)
      try await setFaults(server, #"{"failBefore":1,"failStatuses":[500]}"#)
      let ids = try await create(8, at: server)
      try await watch.fires("RegisPayBreakerOpen")
      // The payments are an hour old.
      try setClock(by: 3_600)
      try await watch.fires("RegisPayConsumerLag")
      try await setFaults(server, #"{"failBefore":1,"failStatuses":[401]}"#)
      try await watch.fires("RegisPayCredentialsRefused")
      try await setFaults(server, #"{"failBefore":1,"failStatuses":[404]}"#)
      try await watch.ends("RegisPayCredentialsRefused")
      try await watch.fires("RegisPayWrongAddress")
      try await setFaults(server, "{}")
      for name in ["RegisPayBreakerOpen", "RegisPayConsumerLag", "RegisPayWrongAddress"] { try await watch.ends(name) }
      for id in ids { try await server.wait(for: id, status: "Completed", within: .seconds(30)) }
      // The log has times of an hour later.
      try setClock(by: 0)
      try await watch.fires("RegisPayClockLead")
      try setClock(by: 3_600)
      try await watch.ends("RegisPayClockLead")
      try await watch.stop()
      try await server.killHard()
    }
  }

  private func create(_ count: Int, at server: RunningServer) async throws -> [String] {
    var ids: [String] = []
    for _ in 0..<count { ids.append(try await server.createPayment("1.00")) }
    return ids
  }

  @Test("payments that wait for a person: parked ones, and ones with an unknown outcome")
  func persons() async throws {
    try await withWatch(["--retry-delay-limit", "0.05"]) { server, watch, _ in
      func create(until status: String) async throws -> String {
        let id = try await server.createPayment("500.00")
        // Others go through meanwhile, so that it looks like no outage.
        while try await server.status(of: id) != status {
          try await server.wait(for: try await server.createPayment("1.00"), status: "Completed", within: .seconds(30))
        }
        return id
      }
      try await setFaults(server, #"{"failFrom":500,"failStatuses":[404]}"#)
      let parked = try await create(until: "Failed")
      try await setFaults(server, #"{"failFrom":500,"failStatuses":[406]}"#)
      let unknown = try await create(until: "OutcomeUnknown")
      try await watch.fires("RegisPayPaymentsParked")
      try await watch.fires("RegisPayOutcomeUnknown")
      try await setFaults(server, "{}")
      #expect(try await server.post("/api/v1/payments/\(parked)/retry", "").status < 300)
      let decision = #"{"step":"create","outcome":"did-not-happen"}"#
      #expect(try await server.post("/api/v1/payments/\(unknown)/resolve", decision).status < 300)
      try await watch.ends("RegisPayPaymentsParked")
      try await watch.ends("RegisPayOutcomeUnknown")
    }
  }

  @Test("webhooks: a receiver that refuses for a while, and one that has gone for good")
  func webhooks() async throws {
    try await withWatch(["--allow-private-webhooks"]) { server, watch, folder in
      let open = folder + "/open"
      func receiver(_ status: Int) async throws -> (RegisPayProcess, id: String) {
        let process = try RegisPayProcess(
          program: "python3", [StoreUnderTest.support + "/busy_receiver.py", open, "1", "\(status)"], folder: folder)
        let port = try #require(try await process.nextLine(), "\(process.errorText)")
        let made = try await server.post("/api/v1/webhooks", "{\"url\":\"http://127.0.0.1:\(port)/\"}").object()
        return (process, try #require(made["id"] as? String))
      }
      let busy = try await receiver(503)
      let gone = try await receiver(410)
      _ = try await create(4, at: server)
      try await watch.fires("RegisPayWebhooksFailing")
      try await watch.fires("RegisPayWebhookDisabled")
      _ = FileManager.default.createFile(atPath: open, contents: nil)
      #expect(try await server.patch("/api/v1/webhooks/\(gone.id)", #"{"enabled":true}"#).status == 200)
      try await watch.ends("RegisPayWebhookDisabled")
      try await watch.ends("RegisPayWebhooksFailing")
      withExtendedLifetime([busy.0, gone.0]) {}
    }
  }

  @Test(
    "damage: found, with the steps that are skipped and the requests that fail by it, until the file is whole again")
  func damage() async throws {
    let template = try await RegisPayDamageTests.template.value
    let damage = RegisPayDamageTests()
    try await damage.withCopy(template) { folder in
      let first = try await RunningServer.start(directory: folder, arguments: RegisPayDamageTests.small)
      let (_, id) = try damage.payload(template, in: folder)
      try await setFaults(first, #"{"failBefore":1,"failStatuses":[500]}"#)
      #expect(try await first.post("/api/v1/payments/\(id)/refunds", #"{"amount":1}"#).status < 300)
      #expect(try await first.stopGracefully() == .init(code: 0, isSignal: false))
      try damage.damageInPlace(template, in: folder)
      let server = try await RunningServer.start(
        directory: folder, arguments: RegisPayDamageTests.small + ["--scrub-rate", "0"])
      let watch = try await AlertWatch.start(server, in: folder)
      try await watch.fires("RegisPayServerErrors") {
        let status = try await server.get("/api/v1/payments/\(id)").status
        #expect(status == 500)
      }
      try await watch.fires("RegisPayDamageFound")
      try await watch.fires("RegisPayStepsSkipped")
      // The same bit again: the file is as it was.
      try damage.damageInPlace(template, in: folder)
      for name in ["RegisPayDamageFound", "RegisPayStepsSkipped", "RegisPayServerErrors"] {
        try await watch.ends(name)
      }
      #expect(try await server.get("/api/v1/payments/\(id)").status == 200)
      try await watch.stop()
      try await server.killHard()
    }
  }

  @Test("a disk that does not respond, is slow, or fails; an index that it keeps from being written")
  func disk() async throws {
    try await withTemporaryFolder { folder in
      let hang = folder + "/hang"
      func set(_ text: String) throws { try text.write(toFile: hang, atomically: true, encoding: .utf8) }
      func start() async throws -> RunningServer {
        try await RunningServer.start(
          directory: folder, arguments: RegisPayDamageTests.small,
          under: ["env", "LD_PRELOAD=\(try await TestTool.hang.value)", "HANG=\(hang)"])
      }
      let server = try await start()
      let port = try #require(server.url.split(separator: ":").last)
      let watch = try await AlertWatch.start(server, in: folder)
      try set("700 /payments/")
      try await watch.fires("RegisPaySlowSyncs") { _ = try await server.createPayment("1.00") }
      try await watch.fires("RegisPaySlowRequests") { _ = try await server.createPayment("1.00") }
      try set("hang /payments/")
      async let waiting = server.createPayment("2.00")
      try await watch.fires("RegisPayWriterStuck")
      try FileManager.default.removeItem(atPath: hang)
      _ = try await waiting
      for name in ["RegisPayWriterStuck", "RegisPaySlowSyncs", "RegisPaySlowRequests"] { try await watch.ends(name) }
      try set("hang .idx")
      try await watch.fires("RegisPayIndexBehind") { _ = try await create(20, at: server) }
      try FileManager.default.removeItem(atPath: hang)
      try await watch.ends("RegisPayIndexBehind")
      try set("error /payments/")
      try await watch.fires("RegisPayLogStopped") {
        _ = try await server.post("/api/payment/create", RegisPayDamageTests.Template.body)
      }
      try FileManager.default.removeItem(atPath: hang)
      try await server.killHard()
      let next = try await RunningServer.start(
        directory: folder, arguments: RegisPayDamageTests.small, port: try #require(Int(port)))
      try await watch.ends("RegisPayLogStopped")
      try await watch.stop()
      try await next.killHard()
    }
  }

  @Test("a full disk, and room again")
  func fullDisk() async throws {
    guard await Mount.isPossible("alerts of a full disk") else { return }
    let scratch = try TemporaryDirectory()
    try await Mount.with(["-t", "tmpfs", "-o", "size=48m", "tmpfs"], in: scratch) { mount in
      try await withTemporaryFolder { folder in
        let server = try await RunningServer.start(
          directory: mount.path, arguments: RegisPayDamageTests.small + ["--breaker-seconds", "0.5"],
          errorFolder: folder)
        let watch = try await AlertWatch.start(server, in: folder)
        let filler = mount.path + "/filler"
        try fill(filler)
        try await watch.fires("RegisPayDiskNearlyFull")
        try await watch.fires("RegisPayCallsHeld") {
          _ = try await server.post("/api/payment/create", RegisPayDamageTests.Template.body)
        }
        try FileManager.default.removeItem(atPath: filler)
        try await watch.ends("RegisPayDiskNearlyFull")
        try await watch.ends("RegisPayCallsHeld")
        try await server.wait(for: try await server.createPayment("1.00"), status: "Completed", within: .seconds(30))
        try await watch.stop()
        try await server.killHard()
      }
    }
  }

  /// Takes all that is left of a file system.
  private func fill(_ path: String) throws {
    let file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
    try #require(file >= 0)
    defer { close(file) }
    let bytes = [UInt8](repeating: 1, count: 4096)
    while write(file, bytes, bytes.count) > 0 {}
    #expect(errno == ENOSPC)
  }

  @Test("the process: it is stopped, gets too little processor time, has few descriptors left")
  func process() async throws {
    try await withWatch { server, watch, folder in
      server.process.signal(SIGSTOP)
      try await watch.fires("RegisPayDown")
      server.process.signal(SIGCONT)
      try await watch.ends("RegisPayDown")
      // It runs for a part of the time only, as on a machine with too much to do.
      try await watch.fires("RegisPayEventLoopHeld") {
        server.process.signal(SIGSTOP)
        try await Task.sleep(for: .milliseconds(250))
        server.process.signal(SIGCONT)
      }
      try await watch.ends("RegisPayEventLoopHeld")
      let count = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(server.process.pid)/fd").count
      try await limitDescriptors(of: server, "\(count + 4):", in: folder)
      try await watch.fires("RegisPayDescriptorsNearlyUsedUp")
      try await limitDescriptors(of: server, "1024:", in: folder)
      try await watch.ends("RegisPayDescriptorsNearlyUsedUp")
    }
  }

  private func limitDescriptors(of server: RunningServer, _ limit: String, in folder: String) async throws {
    let change = try RegisPayProcess(
      program: "prlimit", ["--pid", "\(server.process.pid)", "--nofile=\(limit)"], folder: folder)
    #expect(try await change.waitForExit().code == 0, "\(change.errorText)")
  }

  @Test("a server that is started again and again")
  func restarts() async throws {
    try await withTemporaryFolder { folder in
      var server = try await RunningServer.start(directory: folder)
      let port = try #require(server.url.split(separator: ":").last.flatMap { Int($0) })
      let watch = try await AlertWatch.start(server, range: "20s", in: folder)
      func seenStart() async throws -> Double? { try await watch.prometheus.value("process_start_time_seconds") }
      var last: Double?
      try await eventually("the first start is seen", within: .seconds(30)) {
        last = try await seenStart()
        return last != nil
      }
      for _ in 1...3 {
        #expect(try await !watch.alerts().contains("RegisPayRestarts"))
        try await server.killHard()
        server = try await RunningServer.start(directory: folder, port: port)
        try await eventually("this start is seen", within: .seconds(30)) {
          let start = try await seenStart()
          return start != nil && start != last
        }
        last = try await seenStart()
      }
      try await watch.fires("RegisPayRestarts")
      try await watch.ends("RegisPayRestarts")
      try await watch.stop()
      try await server.killHard()
    }
  }

  @Test("a part of the server that can't do its work: the keys are gone, and come back")
  func unhealthy() async throws {
    try await withTemporaryFolder { folder in
      let port = try freePort()
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--metrics-address", "127.0.0.1:\(port)"])
      let watch = try await AlertWatch.start(server, address: "127.0.0.1:\(port)", in: folder)
      let keys = CommandBlock(
        document: "", heading: "", lines: ["regispay keys create --dir data --name p --scope read"])
      try await keys.run(in: folder)
      try await eventually("the key is in force", within: .seconds(20)) {
        try await server.get("/metrics").status == 401
      }
      let path = folder + "/data/keys.sqlite"
      try FileManager.default.moveItem(atPath: path, toPath: folder + "/keys.sqlite")
      try await watch.fires("RegisPayUnhealthy")
      try FileManager.default.moveItem(atPath: folder + "/keys.sqlite", toPath: path)
      try await watch.ends("RegisPayUnhealthy")
      try await watch.stop()
      try await server.killHard()
    }
  }
}
