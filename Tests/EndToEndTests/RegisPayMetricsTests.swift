import Foundation
import Testing

@Suite("RegisPay's metrics, read by Prometheus", .serialized)
struct RegisPayMetricsTests {
  @Test("the documented configuration, with a key: payments, lags, syncs and traces arrive as they are")
  func scrape() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let keys = CommandBlock(
        document: "", heading: "",
        lines: ["regispay keys create --dir data --name p --scope read --scope write | grep -o 'rp_[^ ]*' > key"])
      try await keys.run(in: folder)
      let key = try String(contentsOfFile: folder + "/key", encoding: .utf8).trimmingCharacters(
        in: .whitespacesAndNewlines)
      let headers = [("Authorization", "Bearer \(key)"), ("Content-Type", "application/json")]
      try await eventually("the key is in force", within: .seconds(20)) {
        try await server.get("/metrics").status == 401
      }
      let configuration = try Prometheus.documentedConfiguration()
        .replacing("/etc/prometheus/regispay.key", with: folder + "/key")
        .replacing("127.0.0.1:8080", with: server.url.replacing("http://", with: ""))
        .replacing("scrape_interval: 15s", with: "scrape_interval: 1s")
      let prometheus = try await Prometheus.start(configuration, in: folder)
      let trace = "0af7651916cd43dd8448eb211c80319c"
      for _ in 0..<5 {
        let created = try await server.post(
          "/api/payment/create", #"{"amount":1.5,"currency":"GBP"}"#,
          headers: headers + [("traceparent", "00-\(trace)-b7ad6b7169203331-01")])
        #expect(created.status == 200)
      }
      try await eventually("five completed payments are seen", within: .seconds(60)) {
        try await prometheus.value(#"regispay_step_outcomes_total{step="notify",outcome="done"}"#) == 5
      }
      #expect(try await prometheus.targets().map { "\($0.health)\($0.error)" } == ["up"])
      let requests = #"http_server_request_duration_seconds_count{http_route="/api/payment/create"}"#
      #expect(try await prometheus.value(requests) == 5)
      // Four events a payment; the skipped ones of other streams count too.
      #expect(try await prometheus.value(#"logstore_end_offset{log="payments"}"#) ?? 0 >= 20)
      #expect(try await prometheus.value(#"max(regispay_consumer_lag_events)"#) != nil)
      #expect(
        try await prometheus.value(#"histogram_quantile(0.5, logstore_sync_duration_seconds_bucket{log="payments"})"#)
          ?? 0 > 0)
      #expect(try await prometheus.value("regispay_disk_available_bytes") ?? 0 > 0)
      try await eventually("the trace is kept", within: .seconds(20)) {
        try await prometheus.exemplars("http_server_request_duration_seconds_bucket").contains(trace)
      }
      try await prometheus.stop()
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "an address of its own is read without a key while the server is busy, and says what the main one says of /metrics")
  func ownAddress() async throws {
    try await withTemporaryFolder { folder in
      let port = try freePort()
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--metrics-address", "127.0.0.1:\(port)"])
      let configuration = try Prometheus.documentedConfiguration()
        .replacing(#/    authorization:\n.*\n/#, with: "")
        .replacing("127.0.0.1:8080", with: "127.0.0.1:\(port)")
        .replacing("scrape_interval: 15s", with: "scrape_interval: 1s")
      #expect(!configuration.contains("credentials"))
      let prometheus = try await Prometheus.start(configuration, in: folder)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<100 { group.addTask { _ = try await server.createPayment("1.50") } }
        try await group.waitForAll()
      }
      try await eventually("all are seen", within: .seconds(60)) {
        try await prometheus.value(#"regispay_step_outcomes_total{step="settle",outcome="done"}"#) == 100
      }
      let sizes = #"sum(rate(regispay_step_calls_total[1m])) or vector(0)"#
      #expect(try await prometheus.value(sizes) != nil)
      #expect(try await server.get("/metrics").status == 200)
      try await prometheus.stop()
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("an address that is taken, or that others can reach, keeps the server from starting, and the line says why")
  func refused() async throws {
    try await withTemporaryFolder { folder in
      let port = try freePort()
      let holder = try await RunningServer.start(directory: folder, port: port)
      for (address, text) in [
        ("127.0.0.1:\(port)", "choose another port with --metrics-address"),
        ("0.0.0.0:0", "--metrics-address asks for no key"),
      ] {
        let process = try RegisPayProcess(
          ["serve", "--dir", folder + "/other", "--port", "0", "--metrics-address", address], folder: folder)
        #expect(try await process.waitForExit() == .init(code: 1, isSignal: false), "\(address)")
        #expect(process.errorText.contains(text), "\(process.errorText)")
        #expect(try await process.nextLine() == nil, "it was not ready, and took no payment")
      }
      let wrong = try RegisPayProcess(
        ["serve", "--dir", folder + "/other", "--metrics-address", "9464"], folder: folder)
      #expect(try await wrong.waitForExit() == .init(code: 64, isSignal: false))
      _ = try await holder.stopGracefully()
    }
  }
}
