import Hummingbird
import LogStore

/// Payments over HTTP: the reference's create route, and our own versioned ones.
struct PaymentRoutes: Sendable {
  let log: PaymentLog
  let projection: PaymentProjection
  let board: WaitingBoard

  func add(to router: Routes) {
    router.answer(
      "/api/payment/create",
      [
        .post: { request, _ in
          do {
            return try await create(request)
          } catch let error as ValidationError {
            return Response(json: error.compatibleBody, status: .badRequest)
          }
        }
      ])
    router.answer(
      "/api/v1/payments",
      [
        .get: { request, _ in try await page(request) },
        .post: { request, _ in
          do {
            return try await create(request)
          } catch let error as ValidationError {
            throw error.problem
          }
        },
      ])
    router.answer("/api/v1/payments/{id}", [.get: { _, context in try details(try find(context)) }])
    router.answer("/api/v1/payments/{id}/events", [.get: { _, context in events(try find(context)) }])
    router.answer("/api/v1/payments/{id}/cancel", [.post: { _, context in try await execute(.cancel, context) }])
    router.answer("/api/v1/payments/{id}/retry", [.post: { _, context in try await execute(.retry, context) }])
    router.answer(
      "/api/v1/payments/{id}/refunds",
      [
        .post: { request, context in
          let payment = try find(context).payment
          let amount = try await RefundRequest(request, currency: payment.money.currency).amount
          return try await execute(.refund(amount), context)
        }
      ])
  }

  /// Carries out what a person asks for, and answers with the payment: `200` when it is done, `202` when somebody else
  /// has to do his part first.
  private func execute(_ command: PaymentCommand, _ context: ExchangeContext) async throws -> Response {
    let id = try find(context).payment.id
    do {
      if case .refused(let refusal) = try await log.request(command, of: id) { throw Problem(refusal) }
    } catch let error as PaymentLogError {
      guard case .store = error else { throw error }
      throw Problem.unavailable("Nothing was changed, as the log can't write now.")
    }
    let loaded = try find(context)
    let isDone = loaded.payment.state == .cancelled
    var response = try details(loaded)
    response.status = isDone ? .ok : .accepted
    return response
  }

  /// Answers only when the payment is durable.
  private func create(_ request: Request) async throws -> Response {
    let body: JSONValue
    do {
      body = try await request.readJSON(limit: CreateRequest.bodyLimit)
    } catch let error as JSONError {
      throw ValidationError(error)
    }
    let money = try CreateRequest(body).money
    do {
      let id = try await log.initiate(money)
      return Response(json: ["paymentId": .string(id.description)])
    } catch {
      throw Problem.unavailable("The payment was not taken, as the log can't write now; nothing was charged.")
    }
  }

  private func find(_ context: ExchangeContext) throws -> PaymentLog.Loaded {
    let text = context.parameters.get("id") ?? ""
    guard let id = PaymentID(text) else { throw Problem.notFound("A payment's id is a UUID.") }
    guard let loaded = try log.load(id) else { throw Problem.notFound("There is no payment \(id).") }
    return loaded
  }

  private func details(_ loaded: PaymentLog.Loaded) throws -> Response {
    // A payment has at least the event that it begins with.
    guard let first = loaded.events.first, let last = loaded.events.last else { throw Problem.notFound("No events.") }
    let row = PaymentRow(
      loaded.payment, version: loaded.version, offset: first.offset,
      createdMicroseconds: first.timestampMicroseconds, updatedMicroseconds: last.timestampMicroseconds)
    var members = PaymentJSON.members(of: row, waiting: board[row.id])
    if !loaded.payment.refunds.isEmpty {
      members.append(.init("refunds", .array(loaded.payment.refunds.map(PaymentJSON.refund))))
    }
    return Response(json: .object(members))
  }

  private func events(_ loaded: PaymentLog.Loaded) -> Response {
    let events = loaded.events.map { event in
      JSONValue.object(EventJSON.members(of: event))
    }
    return Response(json: ["paymentId": .string(loaded.payment.id.description), "events": .array(events)])
  }

  private func page(_ request: Request) async throws -> Response {
    let page = try await projection.page(try PaymentQuery(request.uri.queryParameters))
    let progress = projection.progress
    return Response(json: [
      "payments": .array(page.rows.map { .object(PaymentJSON.members(of: $0, waiting: board[$0.id])) }),
      "next": page.next.map { .string($0.description) } ?? .null,
      // Until then payments are missing, or shown as they were.
      "complete": .bool(!progress.isCatchingUp),
      "asOf": .integer(page.asOf),
      "logEnd": .integer(max(progress.end, page.asOf)),
    ])
  }
}
