import Foundation
import Testing

/// The rules for Prometheus in docs/observability.
enum AlertRules {
  static let folder = CommandBlock.repository.appendingPathComponent("docs/observability")
  static let files = ["recording.yml", "alerts.yml"]

  static func text(_ file: String) throws -> String {
    try String(contentsOf: folder.appendingPathComponent(file), encoding: .utf8)
  }

  /// The names of all alerts, in the order of the file.
  static func names() throws -> [String] {
    try text("alerts.yml").matches(of: #/- alert: (\w+)/#).map { String($0.output.1) }
  }

  /// The rules for a test that can't wait: all the same but for each `for:` and each range.
  static func shortened(_ rules: String, wait: String, range: String) -> String {
    rules.replacing(#/(?m)^( +for:) \w+$/#) { "\($0.output.1) \(wait)" }
      .replacing(#/\[\w+\]/#, with: "[\(range)]")
  }
}

/// A Prometheus with the rules as shipped, in which only waits and ranges are shorter.
struct AlertWatch: Sendable {
  let prometheus: Prometheus
  /// What the server of this watch printed, for a failure's message.
  private let errorText: @Sendable () -> String

  /// - Parameters:
  ///   - server: what it scrapes, unless `address` is given.
  ///   - range: of all rates.
  static func start(
    _ server: RunningServer, address: String? = nil, range: String = "5s", in folder: String
  ) async throws -> AlertWatch {
    var paths: [String] = []
    for file in AlertRules.files {
      let path = folder + "/" + file
      try AlertRules.shortened(try AlertRules.text(file), wait: "400ms", range: range)
        .write(toFile: path, atomically: true, encoding: .utf8)
      paths.append("  - " + path)
    }
    let target = address ?? server.url.replacing("http://", with: "")
    let configuration = try Prometheus.documentedConfiguration()
      .replacing(#/    authorization:\n.*\n/#, with: "")
      .replacing("127.0.0.1:8080", with: target)
      .replacing("scrape_interval: 15s", with: "scrape_interval: 400ms\n    scrape_timeout: 400ms")
    let rules = "global:\n  evaluation_interval: 400ms\nrule_files:\n" + paths.joined(separator: "\n") + "\n"
    let prometheus = try await Prometheus.start(rules + configuration, in: folder)
    try await eventually("the server is scraped", within: .seconds(30)) { try await prometheus.value("up") == 1 }
    return AlertWatch(prometheus: prometheus, errorText: { server.process.errorText })
  }

  /// The names of the alerts in this state.
  func alerts(_ state: String = "firing") async throws -> [String] {
    let found = try await prometheus.data("/api/v1/alerts") as? [String: Any]
    return (found?["alerts"] as? [[String: Any]] ?? []).filter { $0["state"] as? String == state }
      .compactMap { ($0["labels"] as? [String: Any])?["alertname"] as? String }
  }

  /// Waits until the alert fires.
  func fires(
    _ name: String, within limit: Duration = .seconds(60), while cause: () async throws -> Void = {},
    sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    try await wait(for: name, true, limit, cause, sourceLocation)
  }

  /// Waits until it does not.
  func ends(
    _ name: String, within limit: Duration = .seconds(60), while cause: () async throws -> Void = {},
    sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    try await wait(for: name, false, limit, cause, sourceLocation)
  }

  private func wait(
    for name: String, _ isExpected: Bool, _ limit: Duration, _ cause: () async throws -> Void,
    _ sourceLocation: SourceLocation
  ) async throws {
    let deadline = ContinuousClock.now + limit
    while true {
      try await cause()
      let firing = try await alerts()
      if firing.contains(name) == isExpected { return }
      try #require(
        ContinuousClock.now < deadline,
        "\(name) should \(isExpected ? "" : "not ")fire; firing: \(firing); on stderr: \(errorText().suffix(2_000))",
        sourceLocation: sourceLocation)
      // Polls Prometheus: outside of it there is no event to wait for.
      try await Task.sleep(for: .milliseconds(50))
    }
  }

  func stop() async throws { try await prometheus.stop() }
}
