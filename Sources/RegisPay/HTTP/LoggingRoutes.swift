import Hummingbird
import Logging

/// `/api/v1/logging`: the lowest level that the server logs, changed while it runs. A start has the level of `--log-level` again.
struct LoggingRoutes: Sendable {
  let level: LogLevel
  let actions: ActionLog

  func add(to router: Routes) {
    router.handle(
      "/api/v1/logging",
      [
        .get: { _, _ in show() },
        .put: { request, context in
          let new = try Self.level(try await body(of: request))
          let old = level.current
          level.current = new
          guard old != new else { return show() }
          await actions.record(
            .logLevelChanged, nil, [.init("from", .string(old.rawValue)), .init("to", .string(new.rawValue))],
            by: context.holder)
          return show()
        },
      ])
  }

  private func show() -> Response { Response(json: ["level": .string(level.current.rawValue)]) }

  private func body(of request: Request) async throws -> JSONValue {
    do {
      return try await request.readJSON(limit: CreateRequest.bodyLimit)
    } catch let error as JSONError {
      throw ValidationError(error).problem
    }
  }

  /// - Throws: ``Problem`` that names the mistake.
  private static func level(_ body: JSONValue) throws(Problem) -> Logger.Level {
    guard case .object(let members) = body else { throw problem("body", "The body must be a JSON object") }
    for member in members where member.key != "level" {
      throw problem(member.key, "There is no such member; possible is level")
    }
    guard let level = (body["level"]?.text).flatMap(Logger.Level.init(rawValue:)) else {
      let names = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
      throw problem("level", "level must be one of \(names)")
    }
    return level
  }

  private static func problem(_ field: String, _ message: String) -> Problem {
    ValidationError(errors: [FieldError(field: field, messages: [message])]).problem
  }
}
