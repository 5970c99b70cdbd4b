import HTTPTypes
import Hummingbird

/// `/api/v1/batches`: one action for all payments that pass a filter, begun, watched and stopped; and the counts that a person wants to
/// see before.
struct BatchRoutes: Sendable {
  let batches: Batches
  let projection: PaymentProjection
  let actions: ActionLog

  /// The most groups of payments in trouble that a response has.
  private static let troubleLimit = 100
  /// Statuses of payments with a step in trouble.
  private static let troubled: [PaymentStatus] = [.failed, .outcomeUnknown, .declined]
  /// The largest number that all JSON readers keep.
  private static let largestLimit: Int64 = 1 << 53 - 1
  /// The body's limit: the longest filter.
  private static let bodyLimit = 16 << 10

  func add(to router: Routes) {
    router.handle("/api/v1/payments/count", [.get: { request, _ in try await count(request) }])
    router.handle("/api/v1/payments/troubles", [.get: { request, _ in try await troubles(request) }])
    router.handle("/api/v1/batches", [.get: { _, _ in Response(json: ["batches": .array(batches.all.map(\.json))]) }])
    for action in Batch.Action.allCases {
      router.handle(
        RouterPath("/api/v1/batches/\(action.rawValue)"),
        [.post: { request, context in try await begin(action, request, context) }])
    }
    router.handle("/api/v1/batches/{id}", [.get: { _, context in Response(json: try find(context).json) }])
    router.handle(
      "/api/v1/batches/{id}/stop",
      [
        .post: { _, context in try await stop(context) }
      ])
  }

  private func find(_ context: HTTPRequestContext) throws(Problem) -> Batch {
    let id = context.parameters.get("id") ?? ""
    guard let batch = batches[id] else {
      throw Problem.notFound(
        "There is no batch \(id.debugDescription). The server keeps the last 50, until it is started again.")
    }
    return batch
  }

  private func stop(_ context: HTTPRequestContext) async throws -> Response {
    let batch = try find(context)
    let scope = batch.action.scope
    if context.needsKey, context.key?.scopes.contains(scope) != true { throw AccessMiddleware.forbidden(scope) }
    let actor = context.holder
    let stopped = batches.stop(batch.id, actor.map { "\($0.name) stopped it" } ?? "it was stopped") ?? batch
    if batch.state == .running { await actions.record(.batchStopped, batch.id, by: actor) }
    return Response(json: stopped.json)
  }

  private func begin(
    _ action: Batch.Action, _ request: Request, _ context: HTTPRequestContext
  ) async throws -> Response {
    let body: JSONValue
    do {
      body = try await request.readJSON(limit: Self.bodyLimit)
    } catch let error as JSONError {
      throw ValidationError(error).problem
    }
    let (filter, query, limit) = try Self.read(body)
    if let status = query.status, !action.statuses.contains(status) {
      throw Problem(
        status: .unprocessableContent, name: "impossible-batch",
        detail: "Nothing was begun: no payment with status \(status.rawValue) allows \(action.rawValue).")
    }
    do {
      let batch = try await batches.begin(
        action, query, filter: filter, limit: limit, by: context.holder, isStillAllowed: context.isStillAllowed)
      await actions.record(
        .batchBegun, batch.id,
        [.init("action", .string(action.rawValue)), .init("filter", filter)]
          + (limit.map { [.init("limit", .integer(Int64($0)))] } ?? []), by: context.holder)
      return Response(json: batch.json, status: .accepted)
    } catch let error as Batches.TooMany {
      throw Problem(
        status: .tooManyRequests, name: "too-many-batches",
        detail: "\(error.limit) batches are running. Wait until one has ended, or stop one.",
        headers: [.init(name: .retryAfter, value: "5")])
    } catch is Batches.IncompleteList {
      throw Problem.unavailable(
        "Nothing was begun: the list of payments is being rebuilt, and a batch would miss payments. Try again later.")
    } catch is StatementLimit.TookTooLong {
      throw Self.busy
    }
  }

  /// - Throws: ``Problem`` that names the mistake.
  private static func read(_ body: JSONValue) throws(Problem) -> (filter: JSONValue, PaymentQuery, limit: Int?) {
    guard case .object(let members) = body else { throw problem("body", "The body must be a JSON object") }
    for member in members where member.key != "filter" && member.key != "limit" {
      // A misspelt filter must not mean all payments.
      throw problem(member.key, "There is no such member; possible are filter and limit")
    }
    guard let filter = body["filter"], case .object(let filters) = filter else {
      throw problem("filter", "filter must be a JSON object with the list's filters; {} means all payments")
    }
    var parameters: [(key: Substring, value: Substring)] = []
    for member in filters {
      guard PaymentQuery.filters.contains(member.key) else {
        throw problem(
          "filter.\(member.key)",
          "There is no such filter; possible are \(PaymentQuery.filters.joined(separator: ", "))")
      }
      guard let text = member.value.text else { throw problem("filter.\(member.key)", "It must be text") }
      // The filter is kept in a log line and on the log.
      guard text.withoutKeys == text else {
        throw problem("filter.\(member.key)", "It must not hold an API key or a webhook's secret")
      }
      parameters.append((Substring(member.key), Substring(text)))
    }
    let query: PaymentQuery
    do {
      query = try PaymentQuery(parameters)
    } catch {
      throw problem("filter", error.detail)
    }
    guard let given = body["limit"], given != .null else { return (filter, query, nil) }
    guard let limit = given.wholeNumber, (1...largestLimit).contains(limit) else {
      throw problem("limit", "limit must be a whole number of payments from 1 to \(largestLimit)")
    }
    return (filter, query, Int(limit))
  }

  private static func problem(_ field: String, _ message: String) -> Problem {
    ValidationError(errors: [FieldError(field: field, messages: [message])]).problem
  }

  private static var busy: Problem {
    .unavailable(
      "Reading the list of payments takes too long now: it is being rebuilt, or the disk is busy. Try again later.")
  }

  // MARK: - Counts

  private func count(_ request: Request) async throws -> Response {
    var parameters = Array(request.uri.formParameters)
    let action = try Self.takeAction(&parameters)
    if let (name, _) = parameters.first(where: { ["sort", "limit", "after"].contains($0.key) }) {
      throw Problem.badRequest("A count has no parameter \(name).")
    }
    do {
      let query = try PaymentQuery(parameters)
      let (count, isWhole, asOf) =
        if let action { try await batches.count(action, query) } else { try await projection.count(query) }
      return Response(json: ["count": .integer(count), "complete": .bool(isWhole), "asOf": .integer(asOf)])
    } catch is StatementLimit.TookTooLong {
      throw Self.busy
    }
  }

  /// Takes the parameter `action`, which limits a count to payments that may allow it.
  ///
  /// - Throws: ``Problem`` that names the mistake.
  private static func takeAction(
    _ parameters: inout [(key: Substring, value: Substring)]
  ) throws(Problem) -> Batch.Action? {
    guard let index = parameters.firstIndex(where: { $0.key == "action" }) else { return nil }
    let value = parameters.remove(at: index).value
    guard !parameters.contains(where: { $0.key == "action" }) else {
      throw Problem.badRequest("action is given twice.")
    }
    guard let action = Batch.Action(rawValue: String(value)) else {
      throw Problem.badRequest(
        "action must be one of \(Batch.Action.allCases.map(\.rawValue).joined(separator: ", ")).")
    }
    return action
  }

  private func troubles(_ request: Request) async throws -> Response {
    let parameters = request.uri.formParameters
    if let (name, _) = parameters.first(where: { $0.key != "status" }) {
      throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
    }
    guard parameters.count < 2 else { throw Problem.badRequest("status is given twice.") }
    let given = parameters.first.map { String($0.value) } ?? PaymentStatus.failed.rawValue
    guard let status = PaymentStatus(rawValue: given), Self.troubled.contains(status) else {
      throw Problem.badRequest("status must be one of \(Self.troubled.map(\.rawValue).joined(separator: ", ")).")
    }
    do {
      let troubles = try await projection.troubles(status, limit: Self.troubleLimit + 1)
      return Response(json: [
        "status": .string(status.rawValue),
        "troubles": .array(
          troubles.prefix(Self.troubleLimit).map {
            ["step": .string($0.step.rawValue), "reason": .string($0.reason), "payments": .integer($0.count)]
          }),
        "complete": .bool(troubles.count <= Self.troubleLimit),
      ])
    } catch is StatementLimit.TookTooLong {
      throw Self.busy
    }
  }
}

extension Batch.Action {
  /// What a key needs to begin such a batch, and to stop it.
  fileprivate var scope: KeyScope {
    switch self {
    case .retry: .operate
    case .cancel, .refund: .write
    }
  }
}
