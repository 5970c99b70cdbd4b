import Foundation
import Testing

@Suite("The rules and the dashboard for RegisPay's metrics", .serialized)
struct RegisPayAlertRuleTests {
  private struct Query {
    /// Where it stands.
    var place: String
    var text: String
    /// Texts that name labels of its result: a legend, or an alert's annotations.
    var legend = ""
  }

  /// `promtool` with these arguments succeeds.
  private func promtool(_ arguments: [String]) async throws {
    try await withTemporaryFolder { folder in
      let process = try RegisPayProcess(program: "promtool", arguments, folder: folder)
      var printed = ""
      while let line = try await process.nextLine() { printed += line + "\n" }
      #expect(try await process.waitForExit().code == 0, "\(printed)\(process.errorText)")
    }
  }

  @Test("promtool finds no fault in the rules, and they do what Support/alert_rules.yml says over hours")
  func promtool() async throws {
    try await promtool(["check", "rules"] + AlertRules.files.map { AlertRules.folder.path + "/" + $0 })
    try await promtool(["test", "rules", StoreUnderTest.support + "/alert_rules.yml"])
  }

  @Test("a shortened rule differs in its wait and its ranges only")
  func shortened() {
    let rule = """
          - alert: A
            expr: rate(a_total[5m]) > 5 and b[1d] == 1
            for: 1h
            labels: {severity: critical}
            annotations: {summary: "for: 5m"}
      """
    #expect(
      AlertRules.shortened(rule, wait: "1s", range: "2s")
        == rule.replacing("[5m]", with: "[2s]").replacing("[1d]", with: "[2s]").replacing("for: 1h", with: "for: 1s"))
  }

  @Test("each alert has a test: one that causes it, and sees it end, or one of promtool that sees it fire")
  func eachHasATest() throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    let caused = try String(contentsOf: folder.appendingPathComponent("RegisPayAlertTests.swift"), encoding: .utf8)
    let simulated = try String(contentsOfFile: StoreUnderTest.support + "/alert_rules.yml", encoding: .utf8)
    let names = try AlertRules.names()
    #expect(names.count == Set(names).count && names.count > 20)
    for name in names {
      let isCaused = caused.contains("fires(\"\(name)\"") && caused.components(separatedBy: "\"\(name)\"").count > 2
      let isSimulated = simulated.contains("alertname: \(name)\n        exp_alerts:\n          - exp_labels")
      #expect(isCaused || isSimulated, "\(name)")
    }
    for name in caused.matches(of: #/"(RegisPay\w+)"/#).map({ String($0.output.1) }) {
      #expect(names.contains(name), "\(name) is no alert")
    }
  }

  @Test("each alert has a severity, what it means in words, and an entry in OPERATIONS with things to do and commands")
  func eachHasARunbook() async throws {
    let operations = try String(
      contentsOf: CommandBlock.repository.appendingPathComponent("docs/OPERATIONS.md"), encoding: .utf8)
    let rules = try await Self.loadedRules()
    let alerts = rules.filter { $0["type"] as? String == "alerting" }
    #expect(try alerts.compactMap { $0["name"] as? String }.sorted() == AlertRules.names().sorted())
    for alert in alerts {
      let name = try #require(alert["name"] as? String)
      let severity = try #require((alert["labels"] as? [String: String])?["severity"], "\(name)")
      let annotations = try #require(alert["annotations"] as? [String: String], "\(name)")
      #expect(Set(annotations.keys) == ["summary", "description", "runbook_url"], "\(name)")
      #expect(annotations["runbook_url"] == "docs/OPERATIONS.md#\(name.lowercased())")
      #expect(["critical", "warning"].contains(severity), "\(name)")
      #expect(operations.contains("| [\(name)](#\(name.lowercased())) | \(severity) |"), "\(name) is in the table")
      let entry = operations.components(separatedBy: "\n### \(name)\n").dropFirst().first?
        .components(separatedBy: "\n### ")[0]
      for part in [" 1. ", " 2. ", " 3. ", " ```sh ", "f nothing is done"] {
        #expect(entry?.replacing("\n", with: " ").contains(part) == true, "\(name) has no \"\(part)\"")
      }
    }
  }

  @Test(
    "OPERATIONS, Error texts, has every log line of the server of level warning or above, and links that lead somewhere"
  )
  func errorTexts() throws {
    let operations = try String(
      contentsOf: CommandBlock.repository.appendingPathComponent("docs/OPERATIONS.md"), encoding: .utf8)
    let section = try #require(operations.components(separatedBy: "\n## Error texts\n").dropFirst().first)
      .components(separatedBy: "\n## ")[0]
    let texts = try Self.loggedTexts()
    #expect(texts.count > 40)
    for text in texts { #expect(section.contains("`\(text)"), "\(text)") }
    let anchors = Set(
      operations.matches(of: #/(?m)^#+ (.*)$/#).map { heading in
        heading.output.1.lowercased().filter { $0.isLetter || $0.isNumber || " -_".contains($0) }
          .replacing(" ", with: "-")
      })
    for link in operations.matches(of: #/\]\(#([^)]*)\)/#) {
      #expect(anchors.contains(String(link.output.1)), "#\(link.output.1) leads nowhere")
    }
  }

  /// What the sources log at level warning or above, up to the first `;`, `:` or inserted value.
  private static func loggedTexts() throws -> Set<String> {
    let sources = CommandBlock.repository.appendingPathComponent("Sources/RegisPay")
    var texts: Set<String> = []
    for case let file as URL in FileManager.default.enumerator(at: sources, includingPropertiesForKeys: nil) ?? .init()
    where file.pathExtension == "swift" {
      let source = try String(contentsOf: file, encoding: .utf8)
      let calls = #/[lL]ogger\??\.(?:log\(\s*level:[^\n]*?|(?:warning|error|critical)\()\s*([^\n]+)/#
      for call in source.matches(of: calls) where !call.output.0.contains("level: level") {
        let first = call.output.1.components(separatedBy: "metadata:")[0]
        for literal in first.matches(of: #/"([^"]*)"/#) {
          let text = literal.output.1.split(maxSplits: 1, omittingEmptySubsequences: false) { ";:\\".contains($0) }[0]
          if !text.isEmpty { texts.insert(String(text)) }
        }
      }
    }
    return texts
  }

  /// All rules, as Prometheus understands them.
  private static func loadedRules() async throws -> [[String: Any]] {
    var rules: [[String: Any]] = []
    try await withTemporaryFolder { folder in
      let files = AlertRules.files.map { "  - \(AlertRules.folder.path)/\($0)\n" }.joined()
      let prometheus = try await Prometheus.start("rule_files:\n" + files, in: folder)
      let found = try await prometheus.data("/api/v1/rules") as? [String: Any]
      rules = (found?["groups"] as? [[String: Any]] ?? []).flatMap { $0["rules"] as? [[String: Any]] ?? [] }
      try await prometheus.stop()
    }
    return rules
  }

  // MARK: - Names

  @Test("every metric and label in the rules and on the dashboard is one that a running server shows, or a rule makes")
  func names() async throws {
    let rules = try await Self.loadedRules()
    let shown = try await shownMetrics()
    var queries = rules.map {
      Query(
        place: $0["name"] as? String ?? "", text: ($0["query"] as? String ?? "").replacing("\n", with: " "),
        legend: ($0["annotations"] as? [String: String])?.values.joined() ?? "")
    }
    queries += try Self.dashboardQueries()
    #expect(queries.count > 100)
    let recorded = Dictionary(
      uniqueKeysWithValues: queries.filter { $0.place.contains(":") }.map { ($0.place, PromQuery($0.text).selectors) })
    for query in queries {
      let parsed = PromQuery(query.text)
      #expect(!parsed.selectors.isEmpty, "\(query)")
      var labels: Set<String> = ["job", "instance"]
      for selector in parsed.selectors {
        // A recorded name begins with its labels: `instance_step:metric:operations`. Their values are those of its query's metrics.
        let isRecorded = recorded[selector.name] != nil
        labels.formUnion(isRecorded ? Self.level(of: selector.name) : shown.labels(of: selector.name))
        if selector.name == "up" { continue }
        for name in Self.shownNames(of: selector.name, recorded) {
          #expect(Self.mayLack.contains(name) || shown.series[name] != nil, "\(name) in \(query)")
          for matcher in selector.matchers where !["job", "instance"].contains(matcher.label) {
            #expect(try shown.contain(matcher, of: name), "\(matcher) of \(name) in \(query)")
          }
        }
      }
      let unknown = parsed.groupLabels.union(Self.labels(inLegend: query.legend)).subtracting(labels)
      #expect(unknown.isEmpty || parsed.selectors.contains { Self.mayLack.contains($0.name) }, "\(unknown) in \(query)")
    }
    for name in recorded.keys {
      #expect(queries.contains { $0.text.contains(name) && $0.place != name }, "nothing uses \(name)")
    }
  }

  /// What a server shows for this name: itself, or the metrics that a recording rule reads.
  private static func shownNames(of name: String, _ recorded: [String: [PromQuery.Selector]]) -> Set<String> {
    guard let selectors = recorded[name] else { return [name] }
    return Set(selectors.flatMap { shownNames(of: $0.name, recorded) })
  }

  /// Metrics that a server shows only after a minute, while a log grows, or once something was refused. OPERATIONS lists them.
  private static let mayLack: Set<String> = [
    "regispay_disk_full_seconds", "regispay_log_growth_bytes_per_second", "regispay_http_refusals_total",
  ]

  private static func level(of name: String) -> Set<String> {
    let level = name.split(separator: ":")[0]
    return level == "instance" ? [] : Set(level.dropFirst("instance_".count).split(separator: "_").map(String.init))
  }

  /// `{{label}}` of the dashboard, `{{ $labels.label }}` of an alert.
  private static func labels(inLegend text: String) -> Set<String> {
    Set(text.matches(of: #/\{\{ ?(?:\$labels\.)?(\w+)/#).map { String($0.output.1) })
  }

  /// A server with a broker that is away, after a payment, a failed request and a webhook.
  private func shownMetrics() async throws -> ShownMetrics {
    var text = ""
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--allow-private-webhooks", "--broker", "amqp://127.0.0.1:1"])
      let hook = try await server.post("/api/v1/webhooks", #"{"url":"http://127.0.0.1:1025/"}"#)
      #expect(hook.status == 201)
      let id = try await server.createPayment("1.00")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      _ = try await server.post("/toggle-errors", "")
      #expect(try await server.post("/psp/api/payments/create", RegisPayDamageTests.Template.body).status == 500)
      try await eventually("all of it is shown", within: .seconds(90)) {
        text = String(decoding: try await server.get("/metrics").body, as: UTF8.self)
        return text.contains("regispay_directory_bytes{") && text.contains("regispay_consumer_lag_seconds{")
      }
      _ = try await server.stopGracefully()
    }
    return ShownMetrics(text)
  }

  // MARK: - The dashboard

  private static func dashboard() throws -> [String: Any] {
    let data = try Data(contentsOf: AlertRules.folder.appendingPathComponent("dashboard.json"))
    return try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
  }

  private static func dashboardQueries() throws -> [Query] {
    let panels = try #require(try dashboard()["panels"] as? [[String: Any]])
    return panels.flatMap { panel in
      (panel["targets"] as? [[String: Any]] ?? []).map { target in
        Query(
          place: "the panel \(panel["title"] as? String ?? "")", text: target["expr"] as? String ?? "",
          legend: target["legendFormat"] as? String ?? "")
      }
    }
  }

  @Test("the dashboard has the rows, a variable for the data source, and panels that don't overlap")
  func dashboardForm() throws {
    let dashboard = try Self.dashboard()
    let panels = try #require(dashboard["panels"] as? [[String: Any]])
    let rows = panels.filter { $0["type"] as? String == "row" }.compactMap { $0["title"] as? String }
    #expect(
      rows == [
        "Now", "Payments", "HTTP", "Steps and PSP", "Consumers", "Webhooks", "Log", "Disk", "Process",
      ])
    let variables = (dashboard["templating"] as? [String: Any])?["list"] as? [[String: Any]] ?? []
    #expect(variables.compactMap { $0["name"] as? String } == ["datasource", "job", "instance"])
    #expect(Set(panels.compactMap { $0["id"] as? Int }).count == panels.count)
    var taken: Set<[Int]> = []
    for panel in panels {
      let place = try #require(panel["gridPos"] as? [String: Int])
      let (x, y) = (try #require(place["x"]), try #require(place["y"]))
      let (width, height) = (try #require(place["w"]), try #require(place["h"]))
      #expect(x + width <= 24)
      for column in x..<(x + width) {
        for row in y..<(y + height) { #expect(taken.insert([column, row]).inserted, "\(panel["title"] ?? "")") }
      }
      if panel["type"] as? String == "row" { continue }
      #expect((panel["datasource"] as? [String: String])?["uid"] == "${datasource}")
      #expect((panel["description"] as? String)?.isEmpty == false)
    }
  }

  @Test("Prometheus accepts every query of the dashboard, and finds something for it on a server that works")
  func dashboardShows() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--allow-private-webhooks"])
      let watch = try await AlertWatch.start(server, in: folder)
      #expect(try await server.post("/api/v1/webhooks", #"{"url":"http://127.0.0.1:1025/"}"#).status == 201)
      _ = try await server.createPayment("1.00")
      for query in try Self.dashboardQueries() {
        let text = query.text.replacing("$job", with: "regispay").replacing("$instance", with: ".*")
          .replacing("$__rate_interval", with: "5s")
        let escaped = try #require(text.addingPercentEncoding(withAllowedCharacters: .alphanumerics))
        let (status, body) = try await watch.prometheus.get("/api/v1/query?query=\(escaped)")
        #expect(status == 200, "\(query): \(String(decoding: body, as: UTF8.self))")
        // Shown only if something failed, or after a minute.
        if text.contains("> 0") || PromQuery(text).selectors.contains(where: { Self.mayLack.contains($0.name) }) {
          continue
        }
        try await eventually("\(query) finds something", within: .seconds(90)) {
          let found = try await watch.prometheus.data("/api/v1/query?query=\(escaped)") as? [String: Any]
          return (found?["result"] as? [Any])?.isEmpty == false
        }
      }
      try await watch.stop()
      try await server.killHard()
    }
  }
}
