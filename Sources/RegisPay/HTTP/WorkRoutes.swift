import Hummingbird

/// `POST /api/v1/work/{step}` and `…/outcome`: what workers ask and report.
struct WorkRoutes: Sendable {
  let consumers: ConsumerRegistry

  /// A report has texts of a provider, which are cut.
  private static let bodyLimit = 8 << 10

  func add(to router: Routes) {
    router.handle("/api/v1/work/{step}", [.post: { request, context in try await ask(request, context) }])
    router.handle("/api/v1/work/{step}/outcome", [.post: { request, context in try await report(request, context) }])
  }

  private func ask(_ request: Request, _ context: HTTPRequestContext) async throws -> Response {
    let body = try await body(of: request)
    let desk = try desk(context)
    try check(body, ["aggregateId"])
    guard let stream = body["aggregateId"] else { return Response(json: WorkWire.json(await desk.askDue())) }
    guard let id = stream.text.flatMap({ PaymentID(stream: $0) }) else {
      throw Self.problem("aggregateId", "aggregateId is the stream of a payment, such as pay: and its id")
    }
    return Response(json: WorkWire.json(await desk.ask(id)))
  }

  private func report(_ request: Request, _ context: HTTPRequestContext) async throws -> Response {
    let body = try await body(of: request)
    let desk = try desk(context)
    try check(body, ["token", "outcome", "reason", "reference", "status", "cause", "afterMilliseconds", "unconfirmed"])
    guard let token = body["token"]?.text else { throw Self.problem("token", "token is that of a call") }
    guard let work = await desk.work(of: token) else {
      throw Problem.notFound("No call has this token, or it has an outcome: ask again for the work.")
    }
    guard let outcome = WorkWire.outcome(body, of: work) else {
      throw Self.problem("outcome", "The outcome and its members are not what a call of \(work) can have")
    }
    guard let answer = await desk.report(token, outcome) else {
      throw Problem.notFound("No call has this token, or it has an outcome: ask again for the work.")
    }
    return Response(json: WorkWire.json(answer))
  }

  private func desk(_ context: HTTPRequestContext) throws(Problem) -> WorkDesk {
    let name = context.parameters.get("step") ?? ""
    guard let step = PaymentStep(rawValue: name) else {
      throw Problem.notFound("There is no step \(name.debugDescription).")
    }
    guard let desk = consumers.desk(step) else {
      throw consumers.handsOutWork
        ? Problem.unavailable("The server is starting or stopping.")
        : Problem.notFound("The server makes the calls itself: it runs without --steps-from broker.")
    }
    return desk
  }

  private func body(of request: Request) async throws -> JSONValue {
    do {
      return try await request.readJSON(limit: Self.bodyLimit)
    } catch let error as JSONError {
      throw ValidationError(error).problem
    }
  }

  private func check(_ body: JSONValue, _ names: [String]) throws(Problem) {
    guard case .object(let members) = body else { throw Self.problem("body", "The body must be a JSON object") }
    for member in members where !names.contains(member.key) {
      throw Self.problem(member.key, "There is no such member; possible are \(names.joined(separator: ", "))")
    }
  }

  private static func problem(_ field: String, _ message: String) -> Problem {
    ValidationError(errors: [FieldError(field: field, messages: [message])]).problem
  }
}
