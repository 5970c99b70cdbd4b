import HTTPTypes
import Hummingbird
import Logging
import Synchronization

/// What browsers report about the pages' Content-Security-Policy: that something wanted to run or to load which the policy forbids.
/// A fault of the pages, an extension of the browser, or an attack. Browsers report without a key, so anybody can: few reports are
/// logged, and all are counted.
final class PolicyReports: Sendable {
  static let route = "/csp-reports"

  private static let bodyLimit = 16 << 10
  private static let textLimit = 200
  /// Lines that are logged in ``interval``.
  private static let lineLimit = 10
  private static let interval = Duration.seconds(60)

  let count = MetricCounter()
  private let logger: Logger
  private let lines = Mutex((begun: ContinuousClock.now, count: 0))

  init(logger: Logger) { self.logger = logger }

  func add(to router: Routes) {
    router.handle(
      RouterPath(Self.route),
      [
        .post: { request, _ in
          let body: JSONValue
          do {
            body = try await Request.json(try await request.readBody(limit: Self.bodyLimit))
          } catch let error as JSONError {
            throw Problem.badRequest("The body is \(error).")
          }
          guard let report = body["csp-report"], case .object = report else {
            throw Problem.badRequest("The body has no member csp-report.")
          }
          self.note(report)
          return Response(status: .noContent)
        }
      ])
  }

  private func note(_ report: JSONValue) {
    count.add()
    let isLogged = lines.withLock { lines in
      let now = ContinuousClock.now
      if lines.begun.duration(to: now) >= Self.interval { lines = (now, 0) }
      lines.count += 1
      return lines.count <= Self.lineLimit
    }
    guard isLogged else { return }
    logger.warning(
      "a browser reports a violation of the pages' policy",
      metadata: [
        "directive": "\(Self.text(report["effective-directive"] ?? report["violated-directive"]))",
        "blocked": "\(Self.text(report["blocked-uri"]))", "source": "\(Self.text(report["source-file"]))",
        "line": "\(Self.text(report["line-number"]))",
      ])
  }

  /// A member for a log line: short, without a URL's query, where a secret may be, and without a key.
  private static func text(_ value: JSONValue?) -> String {
    switch value {
    case .string(let text)?: String(text.prefix { $0 != "?" && $0 != "#" }.prefix(textLimit)).withoutKeys
    case .number(let text)?: String(text.prefix(textLimit))
    default: ""
    }
  }
}
