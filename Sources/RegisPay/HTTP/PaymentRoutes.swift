import Hummingbird
import LogStore

/// Payments over HTTP: the reference's create route, and our own versioned ones.
struct PaymentRoutes: Sendable {
  let log: PaymentLog
  let list: PaymentList
  let board: WaitingBoard

  /// Payments on a page of the list.
  private static let pageLimit = 200
  private static let pageDefault = 50

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
        .get: { request, _ in try page(request) },
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
    return Response(
      json: json(
        loaded.payment, version: loaded.version, created: first.timestampMicroseconds,
        updated: last.timestampMicroseconds))
  }

  private func events(_ loaded: PaymentLog.Loaded) -> Response {
    let events = loaded.events.map { event in
      JSONValue.object(EventJSON.members(of: event))
    }
    return Response(json: ["paymentId": .string(loaded.payment.id.description), "events": .array(events)])
  }

  private func page(_ request: Request) throws -> Response {
    let query = request.uri.queryParameters
    var status: PaymentStatus?
    if let text = query["status"] {
      guard let known = PaymentStatus(rawValue: String(text)) else {
        let names = PaymentStatus.allCases.map(\.rawValue).joined(separator: ", ")
        throw Problem.badRequest("status must be one of \(names).")
      }
      status = known
    }
    var limit = Self.pageDefault
    if let text = query["limit"] {
      guard let number = Int(text), (1...Self.pageLimit).contains(number) else {
        throw Problem.badRequest("limit must be 1 to \(Self.pageLimit).")
      }
      limit = number
    }
    var after: UInt64?
    if let text = query["after"] {
      guard let number = UInt64(text) else { throw Problem.badRequest("after must be the next of an earlier page.") }
      after = number
    }
    let page = list.page(status: status, after: after, limit: limit)
    return Response(json: [
      "payments": .array(
        page.entries.map {
          json($0.payment, version: $0.version, created: $0.createdMicroseconds, updated: $0.updatedMicroseconds)
        }),
      "next": page.next.map { .string(String($0)) } ?? .null,
      "complete": .bool(page.isWholeLog),
      "asOf": .integer(page.asOf),
    ])
  }

  private func json(_ payment: Payment, version: UInt64, created: UInt64, updated: UInt64) -> JSONValue {
    var members: [JSONValue.Member] = [
      .init("paymentId", .string(payment.id.description)),
      .init("amount", .number(payment.money.decimal)),
      .init("currency", .string(payment.money.currency.code)),
      .init("status", .string(payment.status.rawValue)),
      .init("paymentReference", payment.reference.map(JSONValue.string) ?? .null),
      .init("version", .integer(version)),
      .init("createdAt", .string(timestamp(microseconds: created))),
      .init("updatedAt", .string(timestamp(microseconds: updated))),
    ]
    switch payment.state {
    case .declined(let step, let reason):
      members.append(.init("declined", ["step": .string(step.rawValue), "reason": .string(reason)]))
    default: break
    }
    // The first of what was given up; a retry takes up all of it.
    if let parked = payment.parked.first {
      members.append(
        .init(
          "failure",
          ["step": .string(parked.work.step.rawValue), "reason": .string(parked.reason)]))
    }
    if !payment.refunds.isEmpty {
      members.append(.init("refunded", .number(payment.refunded.decimal)))
      members.append(.init("refunds", .array(payment.refunds.map(json))))
    }
    if let waiting = board[payment.id] {
      members.append(
        .init(
          "waiting",
          [
            "step": .string(waiting.work.description), "attempts": .integer(waiting.attempts),
            "reason": .string(waiting.reason),
          ]))
    }
    return .object(members)
  }

  private func json(_ refund: Refund) -> JSONValue {
    var members: [JSONValue.Member] = [
      .init("refund", .integer(refund.number)), .init("amount", .number(refund.amount.decimal)),
    ]
    switch refund.status {
    case .requested: members.append(.init("status", "Requested"))
    case .done: members.append(.init("status", "Refunded"))
    case .declined(let reason):
      members += [.init("status", "Declined"), .init("reason", .string(reason))]
    case .failed(let reason):
      members += [.init("status", "Failed"), .init("reason", .string(reason))]
    }
    return .object(members)
  }
}

/// An event as the API shows it.
enum EventJSON {
  static func members(of event: Event) -> [JSONValue.Member] {
    [
      .init("eventId", .string("\(event.stream):\(event.version)")),
      .init("stream", .string(event.stream)),
      .init("version", .integer(event.version)),
      .init("offset", .integer(event.offset)),
      .init("type", .string(event.type)),
      .init("timestamp", .string(timestamp(microseconds: event.timestampMicroseconds))),
      // A payload of somebody else's need not be JSON.
      .init("data", (try? JSONReader.read(event.payload)) ?? .null),
    ]
  }
}
