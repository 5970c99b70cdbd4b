import AsyncHTTPClient
import Foundation
import Testing

/// A Prometheus of Debian's package, on a free port of loopback with data of its own. It ends with its process object.
struct Prometheus: Sendable {
  let process: RegisPayProcess
  let url: String
  private static let client = HTTPClient(eventLoopGroupProvider: .singleton)

  /// The block of YAML in OPERATIONS that describes the scrape.
  static func documentedConfiguration() throws -> String {
    let path = CommandBlock.repository.appendingPathComponent("docs/OPERATIONS.md")
    let text = try String(contentsOf: path, encoding: .utf8)
    let blocks = text.components(separatedBy: "```yaml\n").dropFirst().map { $0.components(separatedBy: "```")[0] }
    return try #require(blocks.first { $0.hasPrefix("scrape_configs:") })
  }

  /// - Parameter configuration: of the scrape, as OPERATIONS shows it.
  static func start(_ configuration: String, in folder: String) async throws -> Prometheus {
    try configuration.write(toFile: folder + "/prometheus.yml", atomically: true, encoding: .utf8)
    let port = try freePort()
    let process = try RegisPayProcess(
      program: "prometheus",
      [
        "--config.file=\(folder)/prometheus.yml", "--storage.tsdb.path=\(folder)/tsdb", "--log.level=error",
        "--web.listen-address=127.0.0.1:\(port)", "--enable-feature=exemplar-storage",
      ], folder: folder)
    let prometheus = Prometheus(process: process, url: "http://127.0.0.1:\(port)")
    try await eventually("Prometheus is ready; on stderr: \(process.errorText)", within: .seconds(60)) {
      // Refused until it listens.
      (try? await prometheus.get("/-/ready").0) == 200
    }
    return prometheus
  }

  func get(_ path: String) async throws -> (Int, Data) {
    let response = try await Self.client.execute(HTTPClientRequest(url: url + path), timeout: .seconds(20))
    return (Int(response.status.code), Data(try await response.body.collect(upTo: 16 << 20).readableBytesView))
  }

  /// The member `data` of a response of its API.
  func data(_ path: String) async throws -> Any? {
    let (_, body) = try await get(path)
    return (try JSONSerialization.jsonObject(with: body) as? [String: Any])?["data"]
  }

  /// The value of the only series that the query finds; nil if there is none.
  func value(_ query: String) async throws -> Double? {
    let escaped = query.addingPercentEncoding(withAllowedCharacters: .alphanumerics) ?? ""
    let found = try await data("/api/v1/query?query=\(escaped)") as? [String: Any]
    let series = found?["result"] as? [[String: Any]] ?? []
    guard series.count == 1, let value = series[0]["value"] as? [Any], value.count == 2 else { return nil }
    return (value[1] as? String).flatMap(Double.init)
  }

  /// Why the last scrape failed, of each target; empty for one that succeeded.
  func targets() async throws -> [(health: String, error: String)] {
    let found = try await data("/api/v1/targets") as? [String: Any]
    return (found?["activeTargets"] as? [[String: Any]] ?? []).map {
      ($0["health"] as? String ?? "", $0["lastError"] as? String ?? "")
    }
  }

  func exemplars(_ name: String) async throws -> String {
    let now = Int(Date().timeIntervalSince1970)
    let (_, body) = try await get("/api/v1/query_exemplars?query=\(name)&start=\(now - 3_600)&end=\(now + 60)")
    return String(decoding: body, as: UTF8.self)
  }

  func stop() async throws {
    process.signal(SIGTERM)
    _ = try await process.waitForExit()
  }
}
