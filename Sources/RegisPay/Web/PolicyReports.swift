import HTTPTypes
import Hummingbird
import Logging
import Synchronization

/// What the pages report about their Content-Security-Policy: that something wanted to run or to load which the policy forbids. A fault of
/// the pages, an extension of the browser, or an attack. A page reports with its key, since a browser's own reports have none, and what
/// strangers send must not be kept. All are counted, few are logged.
final class PolicyReports: Sendable {
  static let route = "/api/v1/csp-reports"

  private static let bodyLimit = 4 << 10
  private static let textLimit = 200
  /// Lines that are logged in ``interval``.
  private static let lineLimit = 10
  private static let interval = Duration.seconds(60)
  private static let members = ["directive", "blocked", "source", "line"]

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
            body = try await request.readJSON(limit: Self.bodyLimit)
          } catch let error as JSONError {
            throw ValidationError(error).problem
          }
          guard case .object(let members) = body else {
            throw Problem.badRequest("The body must be a JSON object.")
          }
          for member in members { try Self.check(member) }
          self.note(body)
          return Response(status: .noContent)
        }
      ])
  }

  /// - Throws: ``Problem`` that names the mistake.
  private static func check(_ member: JSONValue.Member) throws(Problem) {
    guard members.contains(member.key) else {
      throw Problem.badRequest(
        "There is no member \(member.key.debugDescription); possible are \(members.joined(separator: ", ")).")
    }
    if member.key == "line" {
      guard let line = member.value.wholeNumber, line >= 0 else {
        throw Problem.badRequest("line must be a whole number from 0.")
      }
    } else if member.value.text == nil {
      throw Problem.badRequest("\(member.key) must be text.")
    }
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
        "directive": "\(Self.text(report["directive"]))", "blocked": "\(Self.text(report["blocked"]))",
        "source": "\(Self.text(report["source"]))", "line": "\(Self.text(report["line"]))",
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
