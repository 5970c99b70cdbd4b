import HTTPTypes
import Hummingbird
import LogStore

/// Payments over HTTP: the reference's create route, and the versioned routes.
struct PaymentRoutes: Sendable {
  let log: PaymentLog
  let requests: IdempotencyStore
  let projection: PaymentProjection
  let retryStatus: RetryStatus
  /// Describes this process in traces.
  let traceResource: [(name: String, value: String)]

  func add(to router: Routes) {
    router.handle(
      "/api/payment/create",
      [
        .post: { request, context in
          do {
            return try await create(request, context)
          } catch let error as ValidationError {
            return Response(json: error.compatibleBody, status: .badRequest)
          }
        }
      ])
    router.handle(
      "/api/v1/payments",
      [
        .get: { request, _ in try await page(request) },
        .post: { request, context in
          do {
            return try await create(request, context)
          } catch let error as ValidationError {
            throw error.problem
          }
        },
      ])
    router.handle(
      "/api/v1/payments/{id}",
      [
        .get: { request, context in
          guard let version = try Self.version(request.uri.formParameters) else {
            let loaded = try await find(context) { $0 }
            return Response(json: try details(loaded, waiting: retryStatus[loaded.payment.id]))
          }
          let id = try id(context)
          guard let loaded = try await log.view(id, upTo: version, { $0 }) else { throw Self.missing(id) }
          guard loaded.version == version else {
            throw Problem.notFound("Payment \(id) has no version \(version) yet; it has \(loaded.version).")
          }
          return Response(json: try details(loaded, waiting: nil))
        }
      ])
    router.handle("/api/v1/payments/{id}/events", [.get: { _, context in try await events(context) }])
    router.handle("/api/v1/payments/{id}/trace", [.get: { _, context in try await trace(context) }])
    router.handle(
      "/api/v1/payments/{id}/cancel", [.post: { request, context in try await execute(.cancel, request, context) }])
    router.handle(
      "/api/v1/payments/{id}/retry", [.post: { request, context in try await execute(.retry, request, context) }])
    router.handle(
      "/api/v1/payments/{id}/resolve",
      [
        .post: { request, context in
          let id = try id(context)
          let body = try await request.readBody(limit: CreateRequest.bodyLimit)
          let resolution = try ResolveRequest(request, body)
          return try await execute(.resolve(resolution.work, resolution.outcome), of: id, request, body, context)
        }
      ])
    router.handle(
      "/api/v1/payments/{id}/refunds",
      [
        .post: { request, context in
          let payment = try await find(context) { $0.payment }
          let body = try await request.readBody(limit: CreateRequest.bodyLimit)
          let amount = try await RefundRequest(request, body, currency: payment.money.currency).amount
          return try await execute(.refund(amount), of: payment.id, request, body, context)
        }
      ])
  }

  /// Executes a person's command, and responds with the payment after it.
  private func execute(
    _ command: PaymentCommand, _ request: Request, _ context: HTTPRequestContext
  ) async throws -> Response {
    let body = try await request.readBody(limit: CreateRequest.bodyLimit)
    return try await execute(command, of: try id(context), request, body, context)
  }

  private func execute(
    _ command: PaymentCommand, of id: PaymentID, _ request: Request, _ body: [UInt8], _ context: HTTPRequestContext
  ) async throws -> Response {
    try await once(request, body, context) { claim in
      do {
        let trace = TraceContext(request.headers)
        switch try await log.request(command, of: id, for: claim, trace: trace, by: context.holder) {
        case .appended(_, let version): return try await response(to: .changed(id, version: version))
        case .refused(let refusal): throw Problem(refusal)
        }
      } catch PaymentLogError.requestTaken {
        return nil
      } catch PaymentLogError.missing {
        throw Self.missing(id)
      } catch PaymentLogError.store, PaymentLogError.append {
        throw Problem.unavailable("Nothing was changed: the log can't write now.")
      }
    }
  }

  /// Responds only when the payment is durable.
  private func create(_ request: Request, _ context: HTTPRequestContext) async throws -> Response {
    let bytes = try await request.readBody(limit: CreateRequest.bodyLimit)
    let body: JSONValue
    do {
      try request.requireJSON()
      body = try await Request.json(bytes)
    } catch let error as JSONError {
      throw ValidationError(error)
    }
    let money = try CreateRequest(body).money
    return try await once(request, bytes, context) { claim in
      do {
        guard let id = try await log.initiate(money, for: claim, trace: TraceContext(request.headers)) else {
          return nil
        }
        return try await response(to: .created(id))
      } catch is LogStoreError {
        throw Problem.unavailable(
          "The payment was not accepted: the log can't write now. Nothing was charged.")
      }
    }
  }

  /// Executes a request once for each idempotency key; a request without a key is always executed.
  ///
  /// - Parameter act: returns nil if a concurrent request used the key first.
  private func once(
    _ request: Request, _ body: [UInt8], _ context: HTTPRequestContext,
    _ act: (IdempotencyStore.Claim?) async throws -> Response?
  ) async throws -> Response {
    guard let key = try IdempotencyKey(request, body: body, owner: context.owner) else {
      guard let response = try await act(nil) else {
        preconditionFailure("no other request can use a key that does not exist")
      }
      return response
    }
    while true {
      switch try await find(key) {
      case .free(let claim): if let response = try await act(claim) { return response }
      case .used(let record): return try await response(from: record, to: key)
      }
    }
  }

  private func find(_ key: IdempotencyKey) async throws -> IdempotencyStore.Found {
    do {
      return try await RequestThreads.run(.short) { [requests] in
        try requests.find(keyDigest: key.digest, formerDigests: key.formerDigests, fingerprint: key.fingerprint)
      }
    } catch let error as LogStoreError where error.isLocalDamage || error.isLoss {
      throw Problem.keyUnreadable
    }
  }

  private func response(from record: IdempotencyRecord, to key: IdempotencyKey) async throws -> Response {
    guard record.fingerprint == key.fingerprint else { throw Problem.keyReused }
    do {
      var response = try await response(to: record.outcome)
      response.headers[.idempotentReplayed] = "true"
      return response
    } catch var problem as Problem {
      // A stored refusal. A problem because the payment can't be read now is not the first response.
      if case .refused = record.outcome { problem.headers.append(.init(name: .idempotentReplayed, value: "true")) }
      throw problem
    }
  }

  /// The response to an outcome, the same for the first request with a key and for every repeat.
  private func response(to outcome: IdempotencyRecord.Outcome) async throws -> Response {
    switch outcome {
    case .created(let id): return Response(json: ["paymentId": .string(id.description)])
    case .changed(let id, let version):
      guard let loaded = try await log.view(id, upTo: version, { $0 }) else { throw Self.missing(id) }
      // 202 if the PSP has to carry out its part first.
      return Response(
        json: try details(loaded, waiting: nil), status: loaded.payment.state == .cancelled ? .ok : .accepted)
    case .refused(let name, let detail): throw Problem(refusal: name, detail)
    }
  }

  /// The version that a payment is asked for as of; nil for the present one.
  ///
  /// - Throws: ``Problem`` that names the mistake.
  private static func version(_ parameters: Parameters) throws(Problem) -> UInt64? {
    var version: UInt64?
    for (name, value) in parameters {
      guard name == "version" else {
        throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
      }
      guard version == nil else { throw Problem.badRequest("version is given twice.") }
      // A payment has some thousand events at most.
      guard let number = value.wholeNumber, (1...1_000_000_000).contains(number) else {
        throw Problem.badRequest("version must be a number from 1 to 1000000000, that of one of the payment's events.")
      }
      version = number
    }
    return version
  }

  /// - Returns: the result of `make` for the payment that the path names.
  private func find<Value: Sendable>(
    _ context: HTTPRequestContext, _ make: @escaping @Sendable (PaymentLog.Loaded) -> Value
  ) async throws -> Value {
    let id = try id(context)
    guard let value = try await log.view(id, make) else { throw Self.missing(id) }
    return value
  }

  private func id(_ context: HTTPRequestContext) throws(Problem) -> PaymentID {
    guard let id = PaymentID(context.parameters.get("id") ?? "") else { throw .notFound("A payment's id is a UUID.") }
    return id
  }

  private static func missing(_ id: PaymentID) -> Problem { .notFound("There is no payment \(id).") }

  private func details(_ loaded: PaymentLog.Loaded, waiting: RetryStatus.Entry?) throws -> JSONValue {
    // A payment has at least its first event.
    guard let first = loaded.events.first, let last = loaded.events.last else { throw Problem.notFound("No events.") }
    let row = PaymentRow(
      loaded.payment, version: loaded.version, offset: first.offset,
      createdMicroseconds: first.timestampMicroseconds, updatedMicroseconds: last.timestampMicroseconds)
    var members = PaymentJSON.members(
      of: row, waiting: waiting, concern: loaded.newerEvent == nil ? nil : .newerEvent)
    if !loaded.payment.refunds.isEmpty {
      members.append(.init("refunds", .array(loaded.payment.refunds.map(PaymentJSON.refund))))
    }
    if row.status == .outcomeUnknown {
      members.append(.init("unknownSteps", PaymentJSON.unknownSteps(of: loaded.payment)))
    }
    return .object(members)
  }

  private func events(_ context: HTTPRequestContext) async throws -> Response {
    // On the reading thread: building the JSON of a long stream would block the connection's loop for too long.
    let bytes = try await find(context) { loaded in
      let events = loaded.events.map { JSONValue.object(EventJSON.members(of: $0)) }
      let json: JSONValue = ["paymentId": .string(loaded.payment.id.description), "events": .array(events)]
      return json.bytes
    }
    return Response(bytes: bytes, contentType: "application/json; charset=utf-8")
  }

  /// The payment's spans as OTLP has them, so that tools can read the response as a file.
  private func trace(_ context: HTTPRequestContext) async throws -> Response {
    let bytes = try await find(context) { [traceResource] loaded in
      let trace = PaymentTrace(loaded)
      return SpanBatch(resource: traceResource, trace.operations.flatMap(trace.spans)).request
    }
    return Response(bytes: bytes, contentType: "application/json; charset=utf-8")
  }

  private func page(_ request: Request) async throws -> Response {
    let page: PaymentProjection.Page
    do {
      page = try await projection.page(try PaymentQuery(request.uri.formParameters))
    } catch is UnlistedPayment {
      throw Problem.notFound("after names a payment that is not listed.")
    } catch is StatementLimit.TookTooLong {
      throw Problem.unavailable(
        "Reading the list took too long and was stopped; the disk may be busy, or the list's indexes are still being built. Try"
          + " again later, or request less: without sort, or with a search that few payments match.")
    }
    let status = projection.status
    let bytes = await RequestThreads.run(.short) { [page, retryStatus, damage = log.damage] in
      let json: JSONValue = [
        "payments": .array(
          page.rows.map {
            .object(PaymentJSON.members(of: $0, waiting: retryStatus[$0.id], concern: damage.concern($0.id)))
          }),
        "next": page.next.map { .string($0.description) } ?? .null,
        // While false, payments are missing or outdated.
        "complete": .bool(!status.isCatchingUp),
        "asOf": .integer(page.asOf),
        "logEnd": .integer(max(status.logEnd, page.asOf)),
      ]
      return json.bytes
    }
    return Response(bytes: bytes, contentType: "application/json; charset=utf-8")
  }
}

extension HTTPField.Name {
  /// On a response that repeats the response to an earlier request with the same key.
  // A token by RFC 9110, which is all that the initialiser asks.
  fileprivate static let idempotentReplayed = HTTPField.Name("Idempotent-Replayed")!
}
